"""Shortens the import of large libraries; entry points of processes wrap their imports in it."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Suspends garbage collection in the block, and exempts what it created afterwards.

    TFX and TensorFlow create half a million objects that live as long as the process. Python would
    search them for garbage a hundred times while it creates them, which is a third of the time of
    the imports, and again and again later on.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
