"""A batch in parts: sums over the parts and their gradients, and what can't be divided."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer.config import TrainerConfig
from trainer.data.streams import create_feeds
from trainer.optimization.arithmetic import Hardware, choose
from trainer.optimization.parts import compute_in_parts
from trainer.optimization.synchronisation import (
    has_own_variables,
    ordered_sums,
    replica_count,
    replica_mean,
)


def test_parts_see_the_mean_of_all_and_have_its_gradient() -> None:
    values = np.array([[1.0, 4.0], [3.0, -2.0], [8.0, 1.0]], np.float32)
    counts, owners = [], []

    @tf.function
    def run(given: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        shares = tf.unstack(given)

        def compute(number: int) -> tuple[tf.Tensor, tf.Tensor]:
            counts.append(replica_count())
            owners.append(has_own_variables())
            with tf.GradientTape() as tape, ordered_sums():
                tape.watch(shares[number])
                first = replica_mean(tf.square(shares[number]))
                # Each part weights the second sum differently: gradients are summed, too.
                second = replica_mean(first * shares[number]) * float(number + 1)
                loss = tf.reduce_sum(second)
            return loss, tape.gradient(loss, shares[number])

        return compute_in_parts(3, compute)

    found = run(tf.constant(values))
    with tf.GradientTape() as tape:
        every = tf.constant(values)
        tape.watch(every)
        second = tf.reduce_mean(tf.reduce_mean(tf.square(every), 0) * every, 0)
        loss = tf.reduce_sum(6.0 * second)
    gradients = [gradient for _, gradient in found]
    np.testing.assert_allclose(gradients, tape.gradient(loss, every), rtol=1e-5)
    np.testing.assert_allclose([one for one, _ in found], tf.reduce_sum(second) * [1.0, 2.0, 3.0])
    assert set(counts) == {3}
    assert sorted(owners) == [False, False, True]
    assert replica_count() == 1


def test_the_failure_of_a_part_ends_the_others() -> None:
    def compute(number: int) -> tf.Tensor:
        if number == 1:
            raise ValueError("part 1 is broken")
        with ordered_sums():
            return replica_mean(tf.ones([2]))

    with tf.Graph().as_default(), pytest.raises(ValueError, match="part 1 is broken"):
        compute_in_parts(3, compute)


def test_what_cannot_be_computed_in_parts_is_refused() -> None:
    config = TrainerConfig(batch_size=16, parts=3)
    with pytest.raises(ValueError, match=r"16 images can't be divided over 3 parts; use 18"):
        create_feeds(config, tiny.train_only(), tf.distribute.get_strategy())
    config = TrainerConfig(parts=2, xla="on")
    hardware = Hardware("cpu", fast_bfloat16=False)
    with pytest.raises(ValueError, match=r"trainer\.parts is 2"):
        choose(config, tiny.build(), replicas=1, clustered=False, hardware=hardware)
