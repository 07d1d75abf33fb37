"""Knows which accelerators Vertex and Kubernetes offer, and on which machines.

`config.py` refuses other combinations; the platforms would fail minutes after the submission.
Sources: https://cloud.google.com/vertex-ai/docs/training/configure-compute#specifying_gpus,
https://cloud.google.com/compute/docs/gpus, and `AcceleratorType` of
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/MachineSpec. TPUs are not among them,
because the trainer has no strategy for them.
"""

import re
from typing import Final

_COUNTS: Final[dict[str, tuple[int, ...]]] = {
    "NVIDIA_TESLA_T4": (1, 2, 4),
    "NVIDIA_TESLA_P4": (1, 2, 4),
    "NVIDIA_TESLA_P100": (1, 2, 4),
    "NVIDIA_TESLA_V100": (1, 2, 4, 8),
    "NVIDIA_TESLA_A100": (1, 2, 4, 8, 16),
    "NVIDIA_A100_80GB": (1, 2, 4, 8),
    "NVIDIA_L4": (1, 2, 4, 8),
    "NVIDIA_RTX_PRO_6000": (1, 2, 4, 8),
    "NVIDIA_H100_80GB": (1, 2, 4, 8),
    "NVIDIA_H100_MEGA_80GB": (8,),
    "NVIDIA_H200_141GB": (8,),
    "NVIDIA_B200": (8,),
    "NVIDIA_GB200": (4,),
}
"""How many of a type one machine of Vertex can have."""

_MOST_CORES: Final[dict[str, dict[int, int]]] = {
    "NVIDIA_TESLA_T4": {1: 48, 2: 48, 4: 96},
    "NVIDIA_TESLA_P4": {1: 24, 2: 48, 4: 96},
    "NVIDIA_TESLA_P100": {1: 16, 2: 32, 4: 96},
    "NVIDIA_TESLA_V100": {1: 12, 2: 24, 4: 48, 8: 96},
}
"""Largest N1 machine, in cores, that so many accelerators can be attached to."""

_BUILT_IN: Final[dict[str, tuple[str, int]]] = {
    **{f"a2-highgpu-{n}g": ("NVIDIA_TESLA_A100", n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{n}g": ("NVIDIA_A100_80GB", n) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": ("NVIDIA_H100_80GB", n) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
    **{f"g2-standard-{cores}": ("NVIDIA_L4", 1) for cores in (4, 8, 12, 16, 32)},
    "g2-standard-24": ("NVIDIA_L4", 2),
    "g2-standard-48": ("NVIDIA_L4", 4),
    "g2-standard-96": ("NVIDIA_L4", 8),
    "g4-standard-48": ("NVIDIA_RTX_PRO_6000", 1),
    "g4-standard-96": ("NVIDIA_RTX_PRO_6000", 2),
    "g4-standard-192": ("NVIDIA_RTX_PRO_6000", 4),
    "g4-standard-384": ("NVIDIA_RTX_PRO_6000", 8),
}
"""Type and number of the accelerators that machines of Vertex come with."""

_MACHINE: Final = re.compile(r"[a-z][a-z0-9]*-[a-z]+(?:-[0-9]+g?)?")
_N1: Final = re.compile(r"n1-(?:standard|highmem|highcpu)-([0-9]+)")
# https://kubernetes.io/docs/concepts/configuration/manage-resources-containers#extended-resources
_RESOURCE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*\.[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]*")


def require_vertex_accelerators(kind: str, count: int) -> None:
    """Checks the accelerators of one machine of Vertex.

    Raises:
        ValueError: if there is no such type, or not so many on a machine.
    """
    if kind not in _COUNTS:
        raise ValueError(
            f"cluster.trainer.accelerator: Vertex has no {kind}; it has {', '.join(_COUNTS)}"
        )
    if count not in _COUNTS[kind]:
        raise ValueError(
            f"cluster.trainer.accelerators: a machine of Vertex has {_either(_COUNTS[kind])}"
            f" {kind}, not {count}"
        )


def require_machine(machine: str, kind: str | None, count: int) -> None:
    """Checks that a machine of Vertex has these accelerators, which exist.

    Raises:
        ValueError: if it comes with others, or they can't be attached to it.
    """
    key = "cluster.trainer.machine_type"
    if not _MACHINE.fullmatch(machine):
        raise ValueError(f"{key}: {machine} is no machine type, such as n1-standard-8")
    if machine in _BUILT_IN:
        own, number = _BUILT_IN[machine]
        if (kind, count) != (own, number):
            raise ValueError(
                f"{key}: {machine} has {number} {own}; set cluster.trainer.accelerator: {own} and"
                f" accelerators: {number}"
            )
        return
    if kind is None:
        return
    if kind not in _MOST_CORES:
        fitting = [name for name, built_in in _BUILT_IN.items() if built_in == (kind, count)]
        raise ValueError(
            f"{key}: {machine} has no {kind}; {count} of them are in {', '.join(fitting)}"
        )
    n1 = _N1.fullmatch(machine)
    if n1 is None:
        raise ValueError(f"{key}: {kind} needs a machine of the series n1, not {machine}")
    most = _MOST_CORES[kind][count]
    if int(n1[1]) > most:
        raise ValueError(f"{key}: {count} {kind} need a machine of up to {most} cores: {machine}")


def require_kubernetes_accelerator(kind: str) -> None:
    """Checks the name of an accelerator on Kubernetes.

    Raises:
        ValueError: if it is no resource of Kubernetes.
    """
    if not _RESOURCE.fullmatch(kind):
        raise ValueError(
            f"cluster.trainer.accelerator: {kind} is no resource of Kubernetes, such as"
            " nvidia.com/gpu or amd.com/gpu"
        )


def _either(counts: tuple[int, ...]) -> str:
    *first, last = map(str, counts)
    return f"{', '.join(first)} or {last}" if first else last
