"""Graph functions that are traced once, or run once."""

import pytest
import tensorflow as tf

from trainer.data.graph_functions import unoptimised


def test_after_the_block_functions_are_optimised_as_before() -> None:
    def is_off() -> bool:
        return tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)

    def fail() -> None:
        with unoptimised():
            with unoptimised():
                assert is_off()
            assert is_off()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not is_off()
