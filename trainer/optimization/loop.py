"""Runs the training loop and keeps its state and checkpoints; `train.py` drives it."""

import concurrent.futures
import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.data import features
from trainer.data.streams import create_feeds, run_identity
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import copy_weights
from trainer.optimization import arithmetic, callbacks, preemption
from trainer.optimization import strategy as strategies
from trainer.optimization.arithmetic import Arithmetic
from trainer.optimization.checkpoints import CHECKPOINTS, Checkpoints
from trainer.optimization.early_stopping import EarlyStopping
from trainer.optimization.stages import TrainingStage
from trainer.optimization.step import REPORTED, Plan, TrainingStep
from trainer.quality.boards import Boards
from trainer.quality.evaluation import Evaluator, fitting_batch
from trainer.storage import files

_LOG = logging.getLogger(__name__)
_ARITHMETIC = "arithmetic.json"
"""File next to history.json that records the precision and the use of XLA."""
_CALL_SECS = 1.0
"""Target duration of one graph call: long enough to hide its overhead, short enough for frequent
progress reports."""


class TrainingLoop:
    """Holds the state of one training run and runs its loop.

    Args:
        build: creates a model whose bodies have the given Keras dtype policy.
        config: options of the training.
        stage: images, devices, folder, stop and progress.
        base: digests of the weights that the model starts from; empty for a cold start.

    Attributes:
        history: one record per evaluation.
        steps: number of completed steps.
    """

    step_type: Callable[..., TrainingStep] = TrainingStep

    def __init__(
        self,
        build: Callable[[str], VaeClassifier],
        config: TrainerConfig,
        stage: TrainingStage,
        base: str = "",
    ) -> None:
        splits, strategy, workdir = stage.splits, stage.strategy, stage.workdir
        self._config = config
        self._splits = splits
        self._strategy = strategy
        self._workdir = workdir
        self._stop = stage.stop
        self._progress = stage.progress
        self._chief = strategies.is_chief(strategy)
        steps_per_epoch = len(splits[features.TRAIN]) / config.batch_size
        self._plan = Plan(max(1, round(config.epochs * steps_per_epoch)), steps_per_epoch)
        self._feeds = create_feeds(config, splits, strategy)
        self._evaluated = build("float32")
        self.arithmetic = chosen = self._choose_arithmetic()
        # Only Keras's initialisers use this seed; all later noise is stateless.
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self._model = build(chosen.body_dtype)
            self._average = build("float32") if config.optimizer.ema_decay else None
        copy_weights(self._model, self._evaluated)
        if self._average is not None:
            copy_weights(self._model, self._average)
        self._step = self._create_step(self._model, self._average, chosen)
        held_out = splits.get(features.VALIDATION)
        size = fitting_batch(config.evaluation_batch_size, len(held_out or ()))
        self._evaluator = None if held_out is None else Evaluator(self._evaluated, size)
        self._checkpoints = Checkpoints(
            os.path.join(workdir, CHECKPOINTS),
            identity=run_identity(
                # The float32 model's configuration, because a run may resume on a machine where
                # `precision: auto` decides otherwise.
                config,
                self._evaluated.get_config(),
                splits,
                strategy.num_replicas_in_sync,
                base,
            ),
            keep=config.checkpoints.keep,
        )
        self._clock = callbacks.Clock()
        self._earlier_secs = 0.0
        self._means = callbacks.Means(REPORTED)
        self.steps = 0
        self._last = self._plan.total_steps
        self.history: list[dict[str, Any]] = []
        self._stopping = EarlyStopping(
            config.early_stopping,
            averaged_every=1 if self._average is None else config.optimizer.ema_every,
        )
        self._stopped = False
        self.last_event: callbacks.TrainingProgress | None = None
        self._boards: Boards | None = None
        if self._chief:
            shown = splits.get(features.VALIDATION, splits[features.TRAIN])
            self._boards = Boards(
                workdir, shown, seed=config.seed,
                total_steps=self._plan.total_steps, events=config.tensorboard,
            )  # fmt: skip

    def _create_step(
        self, model: VaeClassifier, average: VaeClassifier | None, chosen: Arithmetic
    ) -> TrainingStep:
        return self.step_type(
            model=model,
            average=average,
            config=self._config,
            plan=self._plan,
            strategy=self._strategy,
            labelled=self._feeds[0],
            unlabelled=self._feeds[1] if len(self._feeds) > 1 else None,
            xla=chosen.xla,
        )

    def _choose_arithmetic(self) -> Arithmetic:
        chosen = arithmetic.choose(
            self._config,
            self._evaluated,
            replicas=self._strategy.num_replicas_in_sync,
            clustered=strategies.is_clustered(self._strategy),
            hardware=arithmetic.detect_hardware(),
        )
        _LOG.info("arithmetic: %s", chosen)
        if strategies.is_chief(self._strategy):
            content = json.dumps(dataclasses.asdict(chosen), indent=1).encode()
            files.write_bytes(os.path.join(self._workdir, _ARITHMETIC), content)
        return chosen

    def _variables(self) -> list[Any]:
        """Returns all variables that training changes, in the order of the checkpoint."""
        averaged = self._average.learned_weights if self._average is not None else []
        optimizers = self._step.optimizers
        moments = [m for each in optimizers for pair in each.moments for m in pair]
        learned = [weight.value for weight in [*self._model.learned_weights, *averaged]]
        return [*learned, *moments]

    def restore(self) -> None:
        """Restores the newest checkpoint, if there is one."""
        if (found := self._checkpoints.restore()) is None:
            return
        self.steps, arrays, notes = found
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        self.history, self._stopping.state = notes["history"], notes["best"]
        self._stopped = notes["stopped"]
        self._earlier_secs = notes["secs"]
        self._means = callbacks.Means(REPORTED, notes["means"])
        _LOG.info("resumed at step %d of %d", self.steps, self._plan.total_steps)

    def _save(self) -> None:
        if self._chief:
            notes = {
                "history": self.history,
                "best": self._stopping.state,
                "stopped": self._stopped,
                "means": self._means.state(),
                "secs": self._earlier_secs + self._clock.elapsed(),
            }
            arrays = [np.asarray(variable.numpy()) for variable in self._variables()]
            self._checkpoints.save(self.steps, arrays, notes)
        self._clock.skip()

    def loop(self, share: float = 1.0) -> None:
        """Trains until the last step or an early stop.

        Args:
            share: of the steps, after which to evaluate, save and end.

        Raises:
            preemption.PreemptedError: a stop was requested; the state is saved.
        """
        saved_at = self._clock.elapsed()
        self._last = max(1, round(share * self._plan.total_steps))
        if self._boards is not None and not self.steps:
            self._boards.pictures(0, self._evaluated)
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            count = self._next_count(self.steps)
            pending = self._read_ahead(reader, self.steps, count)
            while count and not self._stopped:
                blocks = pending.result()
                following = self._next_count(self.steps + count)
                pending = self._read_ahead(reader, self.steps + count, following)
                self._call(count, blocks)
                count = following
                if self._at_boundary():
                    self._evaluate()
                if self._agree(self._stop.requested):
                    self._save()
                    raise preemption.PreemptedError(
                        f"stopped by SIGTERM after step {self.steps}; start it again to resume "
                        f"from there, its state is in {self._workdir}"
                    )
                if self._clock.elapsed() - saved_at >= self._config.checkpoints.every_secs:
                    self._save()
                    saved_at = self._clock.elapsed()
                limit = 60.0 * self._config.max_minutes
                if limit and self._agree(self._earlier_secs + self._clock.elapsed() > limit):
                    self._stopped = True
        if not self.history or self.history[-1]["step"] != self.steps:
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
        """Returns how many steps to run next: about a second's worth, up to the next boundary."""
        if self._config.steps_per_call or strategies.is_clustered(self._strategy):
            wanted = self._config.steps_per_call or 10
        elif self._clock.step_secs is None:
            wanted = 4
        else:
            wanted = max(1, round(_CALL_SECS / self._clock.step_secs))
        boundary = min(self._boundary_after(step), self._step.phase_end(step))
        return max(0, min(wanted, self._capacity(), boundary - step))

    def _boundary_after(self, step: int) -> int:
        """Returns the next step after which the validation split is evaluated, or the last step."""
        interval = self._config.evaluate_every_epochs * self._plan.steps_per_epoch
        passed = math.floor((step + 0.5) / interval) if interval > 1 else step
        nearest = max(step + 1, round((passed + 1) * interval))
        return min(self._last, nearest)

    def _at_boundary(self) -> bool:
        return self.steps > 0 and self._boundary_after(self.steps - 1) == self.steps

    def _call(self, count: int, blocks: list[tuple[tf.Tensor, ...]]) -> None:
        values = self._step.run(self.steps, count, blocks).numpy()
        preemption.check_finite(values, REPORTED, self.steps)
        self._means.add(values)
        self.steps += count
        self._clock.tick(count)
        self._report(dict(zip(REPORTED, values[-1].tolist(), strict=True)))

    def _report(self, parts: dict[str, float], validation: dict[str, float] | None = None) -> None:
        if not self._chief:
            return
        left = self._plan.total_steps - self.steps
        self.last_event = callbacks.TrainingProgress(
            step=self.steps,
            total_steps=self._plan.total_steps,
            epoch=self.steps / self._plan.steps_per_epoch,
            images_per_sec=self.images_per_sec,
            eta_secs=left * (self._clock.step_secs or 0.0),
            parts=parts,
            validation=validation,
        )
        self._progress(self.last_event)

    def _evaluate(self) -> None:
        """Evaluates the validation split, records the result and decides whether to continue."""
        copy_weights(self._average or self._model, self._evaluated)
        record: dict[str, Any] = {
            "step": self.steps,
            "epoch": self.steps / self._plan.steps_per_epoch,
            "train": self._means.take(),
        }
        if self._evaluator is not None:
            split = self._splits[features.VALIDATION]
            record["validation"] = self._evaluator(split, self._config.objective)
            self._judge(record["validation"])
        self.history.append(record)
        self._write_boards(record)
        if self._chief:
            callbacks.write_history(self._workdir, self.history)
        self._report(record["train"], record.get("validation"))
        self._clock.skip()

    def _write_boards(self, record: dict[str, Any]) -> None:
        if self._boards is None:
            return
        for group in ("train", "validation"):
            self._boards.scalars(self.steps, group, record.get(group, {}))
        self._boards.pictures(self.steps, self._evaluated)

    def _judge(self, measures: dict[str, float]) -> None:
        judgement = self._stopping.judge(measures, self.steps)
        if judgement.is_best and self._chief:
            self._checkpoints.save_best(
                [np.asarray(w.value.numpy()) for w in self._evaluated.learned_weights]
            )
        # Workers must stop together even if rounding makes their measures differ.
        if self._config.early_stopping.patience and self._agree(judgement.is_over):
            self._stopped = True

    def _agree(self, wish: bool) -> bool:
        return strategies.agree(self._strategy, wish)

    def finish(self) -> VaeClassifier:
        """Returns the model with the best or the last weights, as configured."""
        copy_weights(self._average or self._model, self._evaluated)
        if self._config.early_stopping.keep == "best":
            # A barrier: the other workers read the file that the chief has written.
            self._agree(False)
            arrays = self._checkpoints.restore_best()
            if arrays is not None:
                for weight, array in zip(self._evaluated.learned_weights, arrays, strict=True):
                    weight.assign(array)
        if self._boards is not None:
            self._boards.close()
        return self._evaluated

    @property
    def images_per_sec(self) -> float:
        """Labelled images per second over the last call."""
        return self._config.batch_size / self._clock.step_secs if self._clock.step_secs else 0.0
