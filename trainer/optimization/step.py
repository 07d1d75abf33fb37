"""Compiles the training step (gather, augment, gradients, update) and runs many steps per call.

One device, MirroredStrategy and MultiWorkerMirroredStrategy share one path: a loop over
`strategy.run` inside one graph. `loop.py` drives it. Augmentation and the update stay outside
XLA: the warp has no XLA kernel, and the update is already one fused kernel.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

import tensorflow as tf

from trainer.config import TrainerConfig
from trainer.data.augmentation import augment
from trainer.data.batches import Feed
from trainer.model.backbone import BackboneEncoder
from trainer.model.vae_classifier import VaeClassifier
from trainer.optimization import objective
from trainer.optimization.noise import Noise
from trainer.optimization.objective import Batch, Objective, ScheduledWeights
from trainer.optimization.optimizer import Adam, clip, learning_rate, update_average
from trainer.optimization.parts import compute_in_parts
from trainer.optimization.synchronisation import ordered_sums
from trainer.options import AugmentationConfig

REPORTED: Final = (*objective.PARTS, "gradient_norm", "learning_rate")
"""Names of the values that each step reports, in order."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a training run.

    Attributes:
        total_steps: number of steps of the whole run.
        steps_per_epoch: steps in one pass over the train split; may be fractional.
    """

    total_steps: int
    steps_per_epoch: float


class TrainingStep:
    """Runs training steps on the devices of a strategy.

    Args:
        model: the model in training, created in the strategy's scope.
        average: the model that holds the moving average of the weights, or None.
        config: options of the training.
        plan: length of the training.
        strategy: the distribution strategy.
        labelled: feed of the train split.
        unlabelled: feed of the unlabelled stream, or None.
        xla: whether to compile loss and gradients with XLA; supported for one replica only.
    """

    def __init__(
        self,
        *,
        model: VaeClassifier,
        average: VaeClassifier | None,
        config: TrainerConfig,
        plan: Plan,
        strategy: Any,
        labelled: Feed,
        unlabelled: Feed | None,
        xla: bool = False,
    ) -> None:
        self._config = config
        self._plan = plan
        self._strategy = strategy
        self._feeds = [labelled] if unlabelled is None else [labelled, unlabelled]
        self._objective = Objective(model, config.objective, config.semi_supervised)
        self._encoder = model.encoder
        with strategy.scope():
            self.optimizers = _create_optimizers(model, config, plan.total_steps)
        self._averaged = _averaged_pairs(model, average)
        # A nested graph cannot synchronise replicas, so it is used for XLA only.
        self._gradients: Callable[..., Any] = self._compute_gradients
        if xla:
            self._gradients = tf.function(
                self._compute_gradients, jit_compile=True, autograph=False
            )
        self._run = tf.function(self._run_steps, autograph=False)

    def run(self, first_step: int, count: int, blocks: list[tuple[tf.Tensor, ...]]) -> tf.Tensor:
        """Runs `count` steps.

        Args:
            first_step: number of the first step, 0-based.
            count: number of steps.
            blocks: for each feed, the result of its `block` for these steps.

        Returns:
            float32 [count, len(REPORTED)], a row for each step.
        """
        learning = sum(optimizer.first_step <= first_step for optimizer in self.optimizers)
        if isinstance(self._encoder, BackboneEncoder):
            # What is frozen is fixed when a graph is traced, so there is one for each phase.
            self._encoder.freeze(whole=learning < len(self.optimizers))
        return self._run(
            tf.constant(first_step, tf.int32), tf.constant(count, tf.int32), blocks, learning
        )

    def phase_end(self, step: int) -> int:
        """Returns the step before which the same variables learn as in `step`."""
        starts = [each.first_step for each in self.optimizers if each.first_step > step]
        return min(starts, default=self._plan.total_steps)

    def _run_steps(
        self,
        first_step: tf.Tensor,
        count: tf.Tensor,
        blocks: list[tuple[tf.Tensor, ...]],
        learning: int,
    ) -> tf.Tensor:
        resident = [feed.resident() for feed in self._feeds]

        def body(i: tf.Tensor, reported: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            rows = [tuple(tensor[i] for tensor in block) for block in blocks]
            values = self._strategy.run(
                self._replica_step, args=(first_step + i, rows, resident, learning)
            )
            # All replicas report the same sums.
            reported = reported.write(i, self._strategy.experimental_local_results(values)[0])
            self._update_average(first_step + i)
            return i + 1, reported

        reported = tf.TensorArray(tf.float32, count, element_shape=[len(REPORTED)])
        _, reported = tf.while_loop(
            lambda i, _: i < count, body, (tf.constant(0), reported), parallel_iterations=1
        )
        return reported.stack()

    def _replica_step(
        self,
        step: tf.Tensor,
        rows: list[tuple[tf.Tensor, ...]],
        resident: list[tuple[Any, ...]],
        learning: int,
    ) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        number, replicas = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
        noise = Noise(self._config.seed, step, number, replicas)
        batch = self._prepare(noise, rows, resident)
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        present = {name: value for name, value in fields.items() if value is not None}
        if replicas == 1 and self._config.parts > 1:
            gradients, parts = self._gradients_in_parts(step, present, learning)
        else:
            gradients, parts = self._gradients(
                step, tf.convert_to_tensor(number), replicas, present, learning
            )
        if replicas > 1:
            *gradients, parts = replica.all_reduce("sum", [*gradients, parts])
        rate = learning_rate(
            self._config.optimizer,
            step,
            total_steps=self._plan.total_steps,
            steps_per_epoch=self._plan.steps_per_epoch,
        )
        clipped, norm = clip(self._config.optimizer, gradients)
        for optimizer in self.optimizers[:learning]:
            count = len(optimizer.variables)
            optimizer.apply(clipped[:count], step, rate)
            clipped = clipped[count:]
        return tf.concat([parts, tf.stack([norm, rate])], axis=0)

    def _prepare(
        self, noise: Noise, rows: list[tuple[tf.Tensor, ...]], resident: list[tuple[Any, ...]]
    ) -> Batch:
        """Gathers, scales and augments the images of the step and the replica of the noise."""
        augmentation, semi = self._config.augmentation, self._config.semi_supervised
        changed = functools.partial(self._changed, noise)
        images, labels = self._feeds[0].batch(rows[0], resident[0], noise.replica)
        clean = to_float(images)
        batch = Batch(clean=clean, labels=labels)
        if augmentation.enabled and self._config.objective.alpha:
            batch = dataclasses.replace(batch, augmented=changed(clean, augmentation))
        if len(self._feeds) == 1:
            return batch
        images, _ = self._feeds[1].batch(rows[1], resident[1], noise.replica)
        free = to_float(images)
        batch = dataclasses.replace(batch, unlabelled=free[:: semi.elbo_every])
        if semi.consistency or semi.mutual_information:
            weak = changed(free, augmentation.scaled(semi.weak_strength), view="weak")
            strong = changed(free, augmentation, view="strong")
            batch = dataclasses.replace(batch, weak=weak, strong=strong)
        return batch

    def _changed(
        self, noise: Noise, images: tf.Tensor, config: AugmentationConfig, *, view: str = "view"
    ) -> tf.Tensor:
        share = self._elastic_share(noise.step)
        return augment(images, config, noise, view=view, elastic_share=share)

    def _gradients_in_parts(
        self, step: tf.Tensor, tensors: dict[str, tf.Tensor], learning: int
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        count = self._config.parts
        shares = {name: tf.split(tensor, count) for name, tensor in tensors.items()}

        def compute(number: int) -> tuple[list[tf.Tensor], tf.Tensor]:
            own = {name: share[number] for name, share in shares.items()}
            return self._gradients(step, tf.constant(number), count, own, learning)

        found = compute_in_parts(count, compute)
        of_parts = zip(*[gradients for gradients, _ in found], strict=True)
        gradients = [tf.add_n(list(each)) for each in of_parts]
        return gradients, tf.add_n([parts for _, parts in found])

    def _compute_gradients(
        self,
        step: tf.Tensor,
        number: tf.Tensor,
        replicas: int,
        tensors: dict[str, tf.Tensor],
        learning: int,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        variables = [
            each for optimizer in self.optimizers[:learning] for each in optimizer.variables
        ]
        noise = Noise(self._config.seed, step, number, replicas)
        with tf.GradientTape() as tape, ordered_sums():
            loss, parts = self._objective(Batch(**tensors), noise, self._schedule(step))
        gradients = tape.gradient(
            loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return gradients, parts

    def _schedule(self, step: tf.Tensor) -> ScheduledWeights:
        warmup = self._config.objective.beta_warmup_epochs * self._plan.steps_per_epoch
        beta = tf.constant(self._config.objective.beta)
        if warmup:
            beta *= tf.minimum(1.0, tf.cast(step, tf.float32) / warmup)
        consistency = self._ramp(step, self._config.semi_supervised.ramp)
        return ScheduledWeights(beta=beta, consistency=consistency)

    def _elastic_share(self, step: tf.Tensor) -> tf.Tensor | float:
        ramp = self._config.augmentation.elastic_ramp
        return self._ramp(step, ramp) if ramp[1] else 1.0

    def _ramp(self, step: tf.Tensor, shares: tuple[float, float]) -> tf.Tensor:
        """Returns 0 before the first share of the training, 1 after the second."""
        start, end = (share * self._plan.total_steps for share in shares)
        done = tf.cast(step, tf.float32)
        return tf.clip_by_value((done - start) / max(end - start, 1.0), 0.0, 1.0)

    def _update_average(self, step: tf.Tensor) -> None:
        if not self._averaged:
            return
        every, decay = self._config.optimizer.ema_every, self._config.optimizer.ema_decay
        # Early on, the average would be mostly the initial weights, so its memory starts short.
        updates = tf.cast(step // every, tf.float32)
        keep = tf.minimum(decay, (1.0 + updates) / (10.0 + updates))

        def update() -> tf.Tensor:
            targets, sources = zip(*self._averaged, strict=True)
            update_average(self._strategy, targets, sources, keep)
            return tf.constant(0)

        tf.cond(step % every == every - 1, update, lambda: tf.constant(0))


def _averaged_pairs(model: VaeClassifier, average: VaeClassifier | None) -> list[tuple[Any, Any]]:
    if average is None or average is model:
        return []
    return [
        (target.value, source.value)
        for target, source in zip(average.learned_weights, model.learned_weights, strict=True)
        # A backbone may count what it was adapted to, which no training changes.
        if source.value.dtype.is_floating
    ]


def _create_optimizers(model: VaeClassifier, config: TrainerConfig, total_steps: int) -> list[Adam]:
    """Creates the optimiser of the heads, and one of a backbone that learns more slowly or later.

    They are ordered by their first step.
    """
    encoder, options = model.encoder, model.config.backbone
    late = encoder.trainable_variables if isinstance(encoder, BackboneEncoder) else []
    known = {id(variable) for variable in late}
    heads = [each.value for each in model.trainable_variables if id(each) not in known]
    optimizers = [Adam(config.optimizer, heads)]
    if late:
        optimizers.append(
            Adam(
                config.optimizer,
                [variable.value for variable in late],
                relative_rate=options.relative_rate,
                first_step=options.frozen_steps(total_steps),
            )
        )
    return optimizers


def to_float(images: tf.Tensor) -> tf.Tensor:
    """Scales pixels, uint8, to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0
