"""Memory of TFX's steps: the size of Beam's batches, and what a step leaves to the next one."""

import ctypes
import gc
import weakref

import pytest
from absl import flags
from tfx_bsl.coders import batch_util

from pipeline.step_memory import batch_by_bytes, release_memory

MIB = 1 << 20


class _Node:
    """An object that refers to itself, so that only a garbage collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_batches_are_bounded_by_bytes() -> None:
    before = flags.FLAGS["tfxio_use_byte_size_batching"].default
    try:
        batch_by_bytes()
        batching = batch_util.GetBatchElementsKwargs(None)
    finally:
        flags.FLAGS.set_default("tfxio_use_byte_size_batching", before)
    size = batching["element_size_fn"]
    assert batching["max_batch_size"] // size(b"x" * (2 * MIB)) == 10
    assert batching["max_batch_size"] // size(b"x") == 8192


@pytest.mark.parametrize(("seconds", "is_free"), [(0.1, False), (60.0, True)])
def test_garbage_is_collected_after_long_steps(seconds: float, is_free: bool) -> None:
    gc.disable()
    try:
        node = weakref.ref(_Node())
        release_memory(seconds)
        assert (node() is None) is is_free
    finally:
        gc.enable()


def test_other_c_libraries_keep_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl's, for instance, has no `malloc_trim`; garbage is collected all the same."""
    collected: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    release_memory(60.0)
    assert collected
