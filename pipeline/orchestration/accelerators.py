"""Knows which accelerators Vertex and Kubernetes offer, and on which machines.

`step_settings.py` and `config.py` refuse other combinations; the platforms would fail minutes after
the submission. Sources: https://cloud.google.com/vertex-ai/docs/training/configure-compute,
https://cloud.google.com/vertex-ai/docs/pipelines/machine-types,
https://cloud.google.com/compute/docs/gpus, and `AcceleratorType` of
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/MachineSpec. TPUs are not among them,
because the trainer has no strategy for them.
"""

import re
from typing import Final, NamedTuple


class Machine(NamedTuple):
    """A machine of Vertex that comes with accelerators."""

    kind: str
    number: int
    cores: int
    memory_gb: float


_MOST_CORES: Final[dict[str, dict[int, int]]] = {
    "NVIDIA_TESLA_T4": {1: 48, 2: 48, 4: 96},
    "NVIDIA_TESLA_P4": {1: 24, 2: 48, 4: 96},
    "NVIDIA_TESLA_P100": {1: 16, 2: 32, 4: 96},
    "NVIDIA_TESLA_V100": {1: 12, 2: 24, 4: 48, 8: 96},
}
"""Largest N1 machine, in cores, that so many accelerators can be attached to."""

_N1_GB_PER_CORE: Final = 6.5
"""Memory of the N1 machines that have most of it, n1-highmem."""

_BUILT_IN: Final[dict[str, Machine]] = {
    **{f"a2-highgpu-{n}g": Machine("NVIDIA_TESLA_A100", n, 12 * n, 85 * n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": Machine("NVIDIA_TESLA_A100", 16, 96, 1360),
    **{f"a2-ultragpu-{n}g": Machine("NVIDIA_A100_80GB", n, 12 * n, 170 * n) for n in (1, 2, 4, 8)},
    **{
        f"g2-standard-{cores}": Machine("NVIDIA_L4", n, cores, 4 * cores)
        for n, sizes in {1: (4, 8, 12, 16, 32), 2: (24,), 4: (48,), 8: (96,)}.items()
        for cores in sizes
    },
    **{
        f"g4-standard-{48 * n}": Machine("NVIDIA_RTX_PRO_6000", n, 48 * n, 180 * n)
        for n in (1, 2, 4, 8)
    },
    **{f"a3-highgpu-{n}g": Machine("NVIDIA_H100_80GB", n, 26 * n, 234 * n) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": Machine("NVIDIA_H100_MEGA_80GB", 8, 208, 1872),
    "a3-ultragpu-8g": Machine("NVIDIA_H200_141GB", 8, 224, 2952),
    "a4-highgpu-8g": Machine("NVIDIA_B200", 8, 224, 3968),
    "a4x-highgpu-4g": Machine("NVIDIA_GB200", 4, 140, 884),
}
"""Machines of Vertex by the accelerators that they come with."""

_COUNTS: Final[dict[str, tuple[int, ...]]] = {
    **{kind: tuple(most) for kind, most in _MOST_CORES.items()},
    **{
        kind: tuple(sorted({m.number for m in _BUILT_IN.values() if m.kind == kind}))
        for kind in dict.fromkeys(machine.kind for machine in _BUILT_IN.values())
    },
}
"""How many of a type one machine of Vertex can have."""

_STEP_CORES: Final = 96
_STEP_MEMORY_GB: Final = 624
"""Most that a step of a Vertex pipeline can ask for."""

_MACHINE: Final = re.compile(r"[a-z][a-z0-9]*-[a-z]+(?:-[0-9]+g?)?")
_N1: Final = re.compile(r"n1-(?:standard|highmem|highcpu)-([0-9]+)")
# https://kubernetes.io/docs/concepts/configuration/manage-resources-containers#extended-resources
_RESOURCE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*\.[a-z0-9-]+/[A-Za-z0-9][A-Za-z0-9._-]*")


def require_vertex_accelerators(section: str, kind: str, count: int) -> None:
    """Checks the accelerators of one machine of Vertex.

    Args:
        section: Key of the section that names them, for the message.
        kind: Their type.
        count: How many of them.

    Raises:
        ValueError: if there is no such type, or not so many on a machine.
    """
    if kind not in _COUNTS:
        raise ValueError(
            f"{section}.accelerator: Vertex has no {kind}; it has {', '.join(_COUNTS)}"
        )
    if count not in _COUNTS[kind]:
        raise ValueError(
            f"{section}.accelerators: a machine of Vertex has {_either(_COUNTS[kind])}"
            f" {kind}, not {count}"
        )


def require_vertex_size(
    section: str, *, cpu: float, memory_gb: float, kind: str | None, count: int
) -> None:
    """Checks that Vertex has a machine with so many cores and so much memory.

    Args:
        section: Key of the section that asks for them, for the message.
        cpu: Cores.
        memory_gb: Memory, GB.
        kind: Type of the accelerators, which exist; None if there are none.
        count: How many of them.

    Raises:
        ValueError: if no machine is that large.
    """
    cores, memory, what = _largest(kind, count)
    for key, wanted, most, unit in (
        ("cpu", cpu, cores, "cores"),
        ("memory_gb", memory_gb, memory, "GB of memory"),
    ):
        if wanted > most:
            raise ValueError(
                f"{section}.{key}: a step of Vertex{what} has up to {most:g} {unit}, not {wanted:g}"
            )


def _largest(kind: str | None, count: int) -> tuple[float, float, str]:
    """Returns the most cores and memory of a step, and its accelerators in words."""
    if kind is None:
        return _STEP_CORES, _STEP_MEMORY_GB, ""
    what = f" with {count} {kind}"
    if kind in _MOST_CORES:
        cores = _MOST_CORES[kind][count]
        return cores, cores * _N1_GB_PER_CORE, what
    fitting = [m for m in _BUILT_IN.values() if (m.kind, m.number) == (kind, count)]
    cores = min(_STEP_CORES, max(machine.cores for machine in fitting))
    return cores, min(_STEP_MEMORY_GB, max(machine.memory_gb for machine in fitting)), what


def require_machine(machine: str, kind: str | None, count: int) -> None:
    """Checks that a machine of Vertex has these accelerators, which exist.

    Raises:
        ValueError: if it comes with others, or they can't be attached to it.
    """
    key = "cluster.trainer.machine_type"
    if not _MACHINE.fullmatch(machine):
        raise ValueError(f"{key}: {machine} is no machine type, such as n1-standard-8")
    if machine in _BUILT_IN:
        own, number, *_ = _BUILT_IN[machine]
        if (kind, count) != (own, number):
            raise ValueError(
                f"{key}: {machine} has {number} {own}; set cluster.trainer.accelerator: {own} and"
                f" accelerators: {number}"
            )
        return
    if kind is None:
        return
    if kind not in _MOST_CORES:
        fitting = [name for name, m in _BUILT_IN.items() if (m.kind, m.number) == (kind, count)]
        raise ValueError(
            f"{key}: {machine} has no {kind}; {count} of them are in {', '.join(fitting)}"
        )
    n1 = _N1.fullmatch(machine)
    if n1 is None:
        raise ValueError(f"{key}: {kind} needs a machine of the series n1, not {machine}")
    most = _MOST_CORES[kind][count]
    if int(n1[1]) > most:
        raise ValueError(f"{key}: {count} {kind} need a machine of up to {most} cores: {machine}")


def require_kubernetes_accelerator(section: str, kind: str) -> None:
    """Checks the name of an accelerator on Kubernetes.

    Raises:
        ValueError: if it is no resource of Kubernetes.
    """
    if not _RESOURCE.fullmatch(kind):
        raise ValueError(
            f"{section}.accelerator: {kind} is no resource of Kubernetes, such as"
            " nvidia.com/gpu or amd.com/gpu"
        )


def _either(counts: tuple[int, ...]) -> str:
    *first, last = map(str, counts)
    return f"{', '.join(first)} or {last}" if first else last
