"""Chooses precision and XLA by what the network is made of and what the hardware supports.

`loop.py` asks once per run. The choice follows from the configuration and the hardware alone, so it
costs nothing, and a resumed run on the same machine computes as before.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Final, Literal

import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.model.vae_classifier import VaeClassifier

_BFLOAT16_FLAG: Final = "amx_bf16"
"""The flag in /proc/cpuinfo of processors whose matrix units multiply bfloat16 faster than float32.

`avx512_bf16` alone does not pay: trainings with convolutions ran at half to three quarters of the
speed of float32 (docs/benchmarks.md, "Precision and XLA"). Without either, a convolution in
bfloat16 is emulated and takes about ten times as long."""

_BFLOAT16_CAPABILITY: Final = (8, 0)
"""First CUDA compute capability with bfloat16 tensor cores (Ampere)."""


_NO_LIMIT: Final = ("ALL", "DEFAULT")
"""Values of ONEDNN_MAX_CPU_ISA that hide nothing."""


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How the loss and its gradients are computed.

    Attributes:
        body_dtype: Keras dtype policy of encoder and decoder bodies.
        xla: whether XLA compiles them.
        normalisation: how batch normalisation computes statistics: `kernel` (TensorFlow's fused
            op, of one device) or `formula` (of the global batch of replicas, or of parts). They
            round differently.
    """

    body_dtype: str = "float32"
    xla: bool = False
    normalisation: Literal["kernel", "formula"] = "kernel"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What trains.

    Attributes:
        kind: `gpu` if TensorFlow uses at least one, otherwise `cpu`.
        fast_bfloat16: whether it multiplies bfloat16 faster than float32.
    """

    kind: Literal["cpu", "gpu"]
    fast_bfloat16: bool


def detect_hardware() -> Hardware:
    """Looks at the GPUs that TensorFlow sees, or at the flags of the processor."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capabilities = [tuple(each.get("compute_capability", (0, 0))) for each in details]
        return Hardware("gpu", min(capabilities) >= _BFLOAT16_CAPABILITY)
    return Hardware("cpu", _BFLOAT16_FLAG in cpu_flags() and _onednn_may_use_amx())


def cpu_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """Returns the instruction sets of the first processor; empty if the system does not list them.

    Args:
        path: in the format of Linux's /proc/cpuinfo.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def choose(
    config: TrainerConfig,
    model: VaeClassifier,
    *,
    replicas: int,
    clustered: bool,
    hardware: Hardware,
) -> Arithmetic:
    """Returns the arithmetic of a training.

    `xla: auto` is off: on CPUs XLA's convolutions take two to three times as long as oneDNN's, and
    it gains nothing on dense layers, whose update is one fused kernel already.

    Args:
        config: the training's options; `precision` and `xla` are followed unless they are `auto`.
        model: the network.
        replicas: XLA takes one only: its graph can't synchronise others.
        clustered: several workers train together. They may have different processors, so `auto`
            gives every one of them the defaults.
        hardware: what trains.

    Raises:
        ValueError: XLA is asked for with several replicas, or bfloat16 where it would crash.
    """
    if config.xla == "on" and config.parts > 1:
        raise ValueError(
            "trainer.xla: on computes a batch as a whole, trainer.parts is "
            f"{config.parts}; set one of them to its default"
        )
    if config.xla == "on" and replicas > 1:
        raise ValueError(
            f"trainer.xla: on needs one replica, there are {replicas}; set it to auto or off"
        )
    if config.precision == "bfloat16" and hardware.kind == "cpu" and hidden_bfloat16_units():
        raise ValueError(
            "trainer.precision: bfloat16 crashes TensorFlow while ONEDNN_MAX_CPU_ISA hides this "
            "processor's bfloat16 units; unset the variable, or set the precision to float32"
        )
    # A backbone is convolutional, too.
    convolutional = model.config.encoder != "mlp" or model.config.decoder_kind == "conv"
    half = config.precision == "bfloat16" or (
        config.precision == "auto" and convolutional and hardware.fast_bfloat16 and not clustered
    )
    return Arithmetic(
        body_dtype="mixed_bfloat16" if half else "float32",
        xla=config.xla == "on",
        normalisation="formula" if max(replicas, config.parts) > 1 else "kernel",
    )


def hidden_bfloat16_units() -> bool:
    """Tells whether an environment variable hides bfloat16 units that the processor has.

    TensorFlow looks at the processor and oneDNN at the variable, and the process dies of an illegal
    instruction at the first layer in bfloat16.
    """
    limit = _onednn_limit()
    return "avx512_bf16" in cpu_flags() and limit not in _NO_LIMIT and "AVX512_CORE" not in limit


def _onednn_may_use_amx() -> bool:
    """Whether oneDNN is on and its environment variables allow AMX."""
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return False
    limit = _onednn_limit()
    return limit in _NO_LIMIT or "AMX" in limit


def _onednn_limit() -> str:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    return limit.upper()
