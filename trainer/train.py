"""Trains a VAE-classifier: the one entry point, for one device, many GPUs and many workers.

Called by `pipeline/run_fn.py`, `python -m trainer` and the benchmarks. The same call on the same
working directory goes on where a killed run stopped and ends with the same weights.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import callbacks, features, preemption
from trainer import strategy as strategies
from trainer.batches import Feed, Order, build_feed
from trainer.calibration import calibrate
from trainer.checkpoints import Checkpoints
from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.evaluation import Evaluator
from trainer.input_pipeline import ImageSet
from trainer.model import VaeClassifier
from trainer.step import REPORTED, Plan, TrainingStep
from trainer.summaries import summarise

_LOG = logging.getLogger(__name__)

_CALL_SECS = 1.0
"""Aimed duration of one graph call: long enough to hide the call, short enough for progress."""
_RESIDENT_LIMIT = 1 << 30
"""Bytes of images that may lie on every device."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training gives.

    Attributes:
        model: the trained model, float32, outside of any strategy, calibrated.
        history: one record per evaluation.
        calibration: what was fitted after training (`calibration.calibrate`), empty without a
            calibration or validation split.
        summaries: of the train split (`summaries.summarise`), for drift checks.
        steps: steps done.
        images_per_sec: in the steady state of the last calls.
    """

    model: VaeClassifier
    history: list[dict[str, Any]]
    calibration: dict[str, Any]
    summaries: dict[str, Any]
    steps: int
    images_per_sec: float


def train(
    *,
    model_config: ModelConfig,
    trainer_config: TrainerConfig,
    data: Mapping[str, ImageSet],
    image_shape: Sequence[int],
    num_classes: int,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    workdir: str | os.PathLike[str],
    strategy: Any = None,
    progress: callbacks.ProgressFn | None = None,
) -> TrainResult:
    """Trains and returns a model.

    Args:
        model_config: the network.
        trainer_config: how it learns.
        data: images by split name (`features.SPLITS`); only `train` must be there.
        image_shape: (height, width, channels).
        num_classes: K.
        pixel_mean: mean of each channel over the train split, pixels in [0, 1].
        pixel_std: standard deviation likewise.
        workdir: for checkpoints, history.json and TensorBoard; every worker gets the same.
        strategy: a tf.distribute strategy; by default what `trainer.devices` says.
        progress: told of every call and every evaluation; logs by default.

    Returns:
        The model with the best or the last weights, as configured.

    Raises:
        ValueError: options that contradict each other or the data.
        preemption.PreemptedError: SIGTERM came; the state is saved.
        preemption.TrainingDivergedError: the loss is not finite.
    """
    height, width, channels = image_shape
    image_config = ImageConfig.model_validate(
        {"height": height, "width": width, "channels": channels}
    )
    check_consistent(image_config, model_config, trainer_config)
    tf.io.gfile.makedirs(os.fspath(workdir))
    strategy = strategy or strategies.create_strategy(trainer_config.devices)
    splits = _learning_splits(data, model_config, trainer_config)

    def build(body_dtype: str) -> VaeClassifier:
        return VaeClassifier(
            config=model_config,
            image_shape=image_shape,
            num_classes=num_classes,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            body_dtype=body_dtype,
        )

    run = _Run(build, trainer_config, splits, strategy, os.fspath(workdir), progress)
    with preemption.stop_on_sigterm() as stop:
        run.restore()
        run.loop(stop)
    return run.result()


def _learning_splits(
    data: Mapping[str, ImageSet], model_config: ModelConfig, config: TrainerConfig
) -> dict[str, ImageSet]:
    """The splits as the streams need them: every image of the labelled stream has its label."""
    if features.TRAIN not in data or not len(data[features.TRAIN]):
        raise ValueError("the train split is empty: nothing to learn from")
    splits = {name: split for name, split in data.items() if len(split)}
    if not config.objective.alpha:
        return splits
    train_split = splits[features.TRAIN]
    labelled = train_split.labels >= 0
    if not labelled.any():
        raise ValueError(
            "the train split has no labels; label some images, or set trainer.objective.alpha to 0"
        )
    if labelled.all():
        return splits
    free = train_split.take(np.flatnonzero(~labelled))
    present = [splits[features.UNLABELLED]] if features.UNLABELLED in splits else []
    return {
        **splits,
        features.TRAIN: train_split.take(np.flatnonzero(labelled)),
        features.UNLABELLED: ImageSet.join([*present, free]),
    }


class _Run:
    """The state of one training."""

    def __init__(
        self,
        build: Any,
        config: TrainerConfig,
        splits: dict[str, ImageSet],
        strategy: Any,
        workdir: str,
        progress: callbacks.ProgressFn | None,
    ) -> None:
        self._config = config
        self._splits = splits
        self._strategy = strategy
        self._workdir = workdir
        self._progress = progress or callbacks.log_progress
        self._chief = strategies.is_chief(strategy)
        strategies.replica_share("trainer.batch_size", config.batch_size, strategy)
        steps_per_epoch = len(splits[features.TRAIN]) / config.batch_size
        self._plan = Plan(max(1, round(config.epochs * steps_per_epoch)), steps_per_epoch)
        # Initial weights are Keras's business; everything later is stateless noise.
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self._model = build("float32")
            self._average = build("float32") if config.optimizer.ema_decay else None
        self._evaluated = build("float32")
        if self._average is not None:
            _copy_weights(self._model, self._average)
        self._feeds = self._create_feeds()
        self._step = TrainingStep(
            model=self._model,
            average=self._average,
            config=config,
            plan=self._plan,
            strategy=strategy,
            labelled=self._feeds[0],
            unlabelled=self._feeds[1] if len(self._feeds) > 1 else None,
        )
        self._evaluator = Evaluator(self._evaluated, config.evaluation_batch_size)
        self._checkpoints = Checkpoints(
            os.path.join(workdir, "checkpoints"),
            identity=self._identity(),
            keep=config.checkpoints.keep,
        )
        self._clock = callbacks.Clock()
        self._means = callbacks.Means(REPORTED)
        self._done = 0
        self._history: list[dict[str, Any]] = []
        self._best: dict[str, Any] = {"value": None, "step": 0, "bad": 0}
        self._stopped = False

    def _create_feeds(self) -> list[Feed]:
        config = self._config
        streams = [(features.TRAIN, self._splits[features.TRAIN], config.batch_size)]
        semi = config.semi_supervised
        if semi.enabled and features.UNLABELLED in self._splits and config.objective.alpha:
            parts = [self._splits[features.UNLABELLED]]
            if semi.include_train:
                parts.append(self._splits[features.TRAIN])
            size = semi.batch_size or config.batch_size
            key = "trainer.semi_supervised.batch_size"
            strategies.replica_share(key, size, self._strategy)
            streams.append((features.UNLABELLED, ImageSet.join(parts), size))
        return [
            build_feed(
                split, size, Order(len(split), config.seed, name), self._strategy,
                resident_limit_bytes=_RESIDENT_LIMIT,
            )
            for name, split, size in streams
        ]  # fmt: skip

    def _identity(self) -> str:
        """Digest of everything that the weights depend on."""
        ignored = {"max_minutes", "steps_per_call", "tensorboard", "memory_limit_mb",
                   "checkpoints", "calibration", "tuner", "devices"}  # fmt: skip
        digest = hashlib.sha256()
        options = [self._config.model_dump(mode="json", exclude=ignored), self._model.get_config()]
        digest.update(json.dumps(options, sort_keys=True).encode())
        digest.update(str(self._strategy.num_replicas_in_sync).encode())
        for name, split in sorted(self._splits.items()):
            digest.update(f"{name} {split.images.shape}".encode())
            digest.update(np.ascontiguousarray(split.labels).tobytes())
            # A thousand images tell one data set from another; all would take minutes.
            digest.update(split.images[:: max(1, len(split) // 1000)].tobytes())
        return digest.hexdigest()

    def _variables(self) -> list[Any]:
        """Everything that training changes, in the checkpoint's order."""
        averaged = self._average.learned_weights if self._average is not None else []
        moments = [m for pair in self._step.optimizer.moments for m in pair]
        learned = [weight.value for weight in [*self._model.learned_weights, *averaged]]
        return [*learned, *moments]

    def restore(self) -> None:
        """Goes back to the newest checkpoint, if there is one."""
        found = self._checkpoints.restore()
        if found is None:
            return
        self._done, arrays, notes = found
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        self._history, self._best = notes["history"], notes["best"]
        self._stopped = notes["stopped"]
        self._means = callbacks.Means(REPORTED, notes["means"])
        _LOG.info("resumed at step %d of %d", self._done, self._plan.total_steps)

    def _save(self) -> None:
        if self._chief:
            notes = {
                "history": self._history,
                "best": self._best,
                "stopped": self._stopped,
                "means": self._means.state(),
            }
            arrays = [np.asarray(variable.numpy()) for variable in self._variables()]
            self._checkpoints.save(self._done, arrays, notes)
        self._clock.skip()

    def loop(self, stop: preemption.StopRequest) -> None:
        """Trains to the end, or to an early stop.

        Raises:
            preemption.PreemptedError: after saving.
        """
        saved_at = self._clock.elapsed()
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            count = self._next_count(self._done)
            pending = self._read_ahead(reader, self._done, count)
            while count and not self._stopped:
                blocks = pending.result()
                following = self._next_count(self._done + count)
                pending = self._read_ahead(reader, self._done + count, following)
                self._call(count, blocks)
                count = following
                if self._at_boundary():
                    self._evaluate()
                if self._agree(stop.requested):
                    self._save()
                    raise preemption.PreemptedError(
                        f"stopped by SIGTERM after step {self._done}; the state is saved in "
                        f"{self._workdir}"
                    )
                if self._clock.elapsed() - saved_at >= self._config.checkpoints.every_secs:
                    self._save()
                    saved_at = self._clock.elapsed()
                limit = 60.0 * self._config.max_minutes
                if limit and self._agree(self._clock.elapsed() > limit):
                    self._stopped = True
        if not self._history or self._history[-1]["step"] != self._done:
            self._evaluate()
        self._save()

    def _read_ahead(
        self, reader: concurrent.futures.Executor, step: int, count: int
    ) -> "concurrent.futures.Future[list[tuple[tf.Tensor, ...]]]":
        capacity = self._capacity()
        return reader.submit(
            lambda: [feed.block(step, count, capacity) for feed in self._feeds] if count else []
        )

    def _capacity(self) -> int:
        if self._config.steps_per_call:
            return self._config.steps_per_call
        return min(feed.most_steps for feed in self._feeds)

    def _next_count(self, step: int) -> int:
        """Steps of the call after `step`: about a second's worth, up to the next boundary."""
        if self._config.steps_per_call or strategies.is_clustered(self._strategy):
            wanted = self._config.steps_per_call or 10
        elif self._clock.step_secs is None:
            wanted = 4
        else:
            wanted = max(1, round(_CALL_SECS / self._clock.step_secs))
        return max(0, min(wanted, self._capacity(), self._boundary_after(step) - step))

    def _boundary_after(self, step: int) -> int:
        """The next step at which the validation split is looked at, or the last step."""
        interval = self._config.evaluate_every_epochs * self._plan.steps_per_epoch
        passed = math.floor((step + 0.5) / interval) if interval > 1 else step
        nearest = max(step + 1, round((passed + 1) * interval))
        return min(self._plan.total_steps, nearest)

    def _at_boundary(self) -> bool:
        return self._done > 0 and self._boundary_after(self._done - 1) == self._done

    def _call(self, count: int, blocks: list[tuple[tf.Tensor, ...]]) -> None:
        values = self._step.run(self._done, count, blocks).numpy()
        preemption.check_finite(values, REPORTED, self._done)
        self._means.add(values)
        self._done += count
        self._clock.tick(count)
        self._report(dict(zip(REPORTED, values[-1].tolist(), strict=True)))

    def _report(self, parts: dict[str, float], validation: dict[str, float] | None = None) -> None:
        if not self._chief:
            return
        left = self._plan.total_steps - self._done
        self._progress(
            callbacks.Progress(
                step=self._done,
                total_steps=self._plan.total_steps,
                epoch=self._done / self._plan.steps_per_epoch,
                images_per_sec=self._images_per_sec(),
                eta_secs=left * (self._clock.step_secs or 0.0),
                parts=parts,
                validation=validation,
            )
        )

    def _images_per_sec(self) -> float:
        per_step = self._config.batch_size
        return per_step / self._clock.step_secs if self._clock.step_secs else 0.0

    def _evaluate(self) -> None:
        """Looks at the validation split, records, and decides whether to go on."""
        _copy_weights(self._average or self._model, self._evaluated)
        record: dict[str, Any] = {
            "step": self._done,
            "epoch": self._done / self._plan.steps_per_epoch,
            "train": self._means.take(),
        }
        if features.VALIDATION in self._splits:
            split = self._splits[features.VALIDATION]
            record["validation"] = self._evaluator(split, alpha=self._config.objective.alpha)
            self._judge(record["validation"])
        self._history.append(record)
        if self._chief:
            callbacks.write_history(self._workdir, self._history)
        self._report(record["train"], record.get("validation"))
        self._clock.skip()

    def _judge(self, measures: dict[str, float]) -> None:
        stopping = self._config.early_stopping
        if not stopping.patience and stopping.keep == "last":
            return
        if stopping.metric not in measures:
            raise ValueError(
                f"trainer.early_stopping.metric: {stopping.metric} is not measured on the "
                f"validation split; choose one of {', '.join(sorted(measures))}"
            )
        sign = 1.0 if stopping.metric in ("accuracy", "elbo") else -1.0
        value, best = sign * measures[stopping.metric], self._best["value"]
        if best is None or value > best + stopping.min_delta:
            self._best = {"value": value, "step": self._done, "bad": 0}
            if self._chief:
                self._checkpoints.save_best(
                    [np.asarray(w.value.numpy()) for w in self._evaluated.learned_weights]
                )
            return
        self._best = {**self._best, "bad": self._best["bad"] + 1}
        if stopping.patience and self._best["bad"] >= stopping.patience:
            self._stopped = True

    def _agree(self, wish: bool) -> bool:
        return strategies.agree(self._strategy, wish)

    def result(self) -> TrainResult:
        """The model with the weights that the configuration asks for."""
        _copy_weights(self._average or self._model, self._evaluated)
        if self._config.early_stopping.keep == "best":
            arrays = self._checkpoints.restore_best()
            if arrays is not None:
                for weight, array in zip(self._evaluated.learned_weights, arrays, strict=True):
                    weight.assign(array)
        report = self._calibrate()
        summary = summarise(
            self._evaluated,
            self._splits[features.TRAIN],
            seed=self._config.seed,
            batch_size=self._config.evaluation_batch_size,
        )
        return TrainResult(
            model=self._evaluated,
            history=self._history,
            calibration=report,
            summaries=summary,
            steps=self._done,
            images_per_sec=self._images_per_sec(),
        )

    def _calibrate(self) -> dict[str, Any]:
        """Fits the quality scores on the calibration split, or for want of it on validation."""
        for name in (features.CALIBRATION, features.VALIDATION):
            if name in self._splits:
                report = calibrate(
                    self._evaluated,
                    train=self._splits[features.TRAIN],
                    calibration=self._splits[name],
                    config=self._config.calibration,
                    seed=self._config.seed,
                    batch_size=self._config.evaluation_batch_size,
                )
                return {"split": name, **report}
        _LOG.warning("no calibration split: temperature 1, every verdict is accept")
        return {}


def _copy_weights(source: VaeClassifier, target: VaeClassifier) -> None:
    for to, value in zip(target.learned_weights, source.learned_weights, strict=True):
        to.assign(value.value.numpy())
