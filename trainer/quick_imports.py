"""Shortens the import of large libraries; entry points of processes wrap their imports in it."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Final

from trainer.cores import limit_threads
from trainer.process_end import finalize_s3_at_exit

_FULL_COLLECTION: Final = 50
"""Middle-generation collections between two full ones; Python's default is 10."""


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Suspends garbage collection in the block, and exempts what it created afterwards.

    TFX and TensorFlow create half a million objects that live as long as the process. Python would
    search them for garbage a hundred times while it creates them, which is a third of the time of
    the imports, and again and again later on. Afterwards full collections are rarer: each of them
    searches every graph that TensorFlow has traced, 0.2 s at a time.

    TensorFlow, Arrow and OpenMP get the threads that the process may use.
    """
    # Among the libraries is pyarrow.
    finalize_s3_at_exit()
    imported = len(sys.modules)
    collects = gc.isenabled()
    gc.disable()
    try:
        limit_threads()
        yield
    finally:
        # Garbage would be exempt, too, so only where the block has imported something.
        if len(sys.modules) > imported:
            gc.freeze()
            young, middle, _ = gc.get_threshold()
            gc.set_threshold(young, middle, _FULL_COLLECTION)
        if collects:
            gc.enable()


def leave_out_keras() -> None:
    """Makes TensorFlow start without Keras, in a process that only runs exported models.

    TensorFlow imports it where it is installed, for the names of its optimisers, which takes half a
    second and 160 MiB; and for clusters and sparse arrays of its old Keras the other two, which
    take as long again. A model server has none of them either.
    """
    if "tensorflow" not in sys.modules:
        for unused in ("keras", "googleapiclient", "scipy"):
            sys.modules[unused] = None  # type: ignore[assignment]
