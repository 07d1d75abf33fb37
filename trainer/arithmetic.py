"""Chooses precision and XLA by timing them on the real training step.

What pays differs by machine and network: on CPUs XLA makes dense networks faster and convolutions
several times slower, bfloat16 helps where the processor has units for it. Called by `train.py`
once per run; the choice lies in the working directory, so a resumed run computes as before.
"""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.checkpoints import write_atomic
from trainer.config import TrainerConfig
from trainer.model import VaeClassifier

_LOG = logging.getLogger(__name__)

_FILE = "arithmetic.json"
_WORTH_SECS = 300.0
"""Shorter trainings take the defaults: measuring, compilation above all, costs up to a minute."""
_ASSUMED_SPEED = 5e10
"""Operations per second of a small machine, to tell short trainings without running a step."""
_LEAST_GAIN = 1.05
"""A choice must be this much faster than the defaults."""


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How the loss and its gradients are computed.

    Attributes:
        body_dtype: Keras dtype policy of encoder and decoder bodies.
        xla: whether XLA compiles them.
    """

    body_dtype: str = "float32"
    xla: bool = False


StepRunner = Callable[[int], Any]
"""Runs this many training steps and returns what they report."""


def candidates(config: TrainerConfig, *, replicas: int, clustered: bool) -> list[Arithmetic]:
    """What the options leave open; the first is the default.

    Args:
        config: the training's options.
        replicas: XLA takes one only: its graph can't synchronise others.
        clustered: workers must agree without measuring, as their clocks differ.

    Raises:
        ValueError: XLA is asked for with several replicas.
    """
    if config.xla == "on" and replicas > 1:
        raise ValueError(
            f"trainer.xla: on needs one replica, there are {replicas}; set it to auto or off"
        )
    dtypes = {
        "float32": ["float32"],
        "bfloat16": ["mixed_bfloat16"],
        "auto": ["float32", "mixed_bfloat16"],
    }[config.precision]
    compiled = {"on": [True], "off": [False], "auto": [False, True]}[config.xla]
    if replicas > 1:
        compiled = [False]
    if clustered:
        dtypes, compiled = dtypes[:1], compiled[:1]
    return [Arithmetic(dtype, xla) for xla in compiled for dtype in dtypes]


def operations_per_image(model: VaeClassifier) -> float:
    """Rough count of arithmetic operations of training on one image."""
    places = 1.0
    if "conv" in (model.config.encoder, model.config.decoder_kind):
        # Most kernels are used at every place of a grid.
        places = model.image_shape[0] * model.image_shape[1] / 64.0
    return 6.0 * places * sum(math.prod(weight.shape) for weight in model.trainable_weights)


def choose(
    options: list[Arithmetic],
    make: Callable[[Arithmetic], StepRunner],
    *,
    total_steps: int,
    operations_per_step: float,
    workdir: str,
) -> Arithmetic:
    """The fastest option, or the first where the training is too short to measure.

    Args:
        options: of `candidates`.
        make: builds a training step on scratch weights.
        total_steps: of the training.
        operations_per_step: estimated arithmetic of a step.
        workdir: where the choice is kept.
    """
    path = os.path.join(workdir, _FILE)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path, "r") as file:
            stored = Arithmetic(**json.loads(file.read())["chosen"])
        if stored in options:
            return stored
    chosen = options[0]
    speeds: dict[str, float] = {}
    if len(options) > 1 and total_steps * operations_per_step / _ASSUMED_SPEED > _WORTH_SECS:
        chosen, speeds = _measure(options, make, total_steps)
    content = {"chosen": dataclasses.asdict(chosen), "secs_per_step": speeds}
    write_atomic(path, json.dumps(content, indent=1).encode())
    return chosen


def _measure(
    options: list[Arithmetic], make: Callable[[Arithmetic], StepRunner], total_steps: int
) -> tuple[Arithmetic, dict[str, float]]:
    times: dict[Arithmetic, float] = {}
    default = options[0]
    for option in options:
        times[option] = _time(make(option))
        if times[default] * total_steps < _WORTH_SECS:
            break
    fastest = min(times, key=lambda option: times[option])
    chosen = fastest if times[default] / times[fastest] > _LEAST_GAIN else default
    speeds = {f"{o.body_dtype}{' xla' if o.xla else ''}": secs for o, secs in times.items()}
    _LOG.info("arithmetic: %s, measured %s", chosen, speeds)
    return chosen, speeds


def _time(run: StepRunner, *, repeats: int = 3, steps: int = 4) -> float:
    """Seconds per step: the best of some repeats after a warm-up; infinite if it does not run."""
    try:
        reported = run(1)
        if not math.isfinite(float(tf.reduce_sum(reported))):
            return math.inf
        times = []
        for _ in range(repeats):
            started = time.monotonic()
            run(steps).numpy()
            times.append((time.monotonic() - started) / steps)
        return min(times)
    except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError) as error:
        _LOG.info("an arithmetic does not run here: %s", str(error).splitlines()[0])
        return math.inf
