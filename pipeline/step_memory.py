"""Bounds the memory of TFX's steps: batches by bytes, and freed memory returned to the system.

`dag_runner.py` calls it for runs on this machine, `orchestration/step_entry.py` in a container.
"""

import ctypes
import gc
from typing import Final

import tfx_bsl.coders.batch_util  # noqa: F401, it defines the flag
from absl import flags

_LONG_SECS: Final = 10.0
"""Wall time of a step from which a garbage collection, half a second after a training, is cheap."""


def batch_by_bytes() -> None:
    """Makes steps on Beam read batches of 20 MiB of records, or of 8,192 records.

    Without it, Beam makes batches of up to 1,000 records, as many as take a second: gigabytes of
    photographs where a step only counts them.
    """
    # As the default, so that parsing a command line later does not reset it.
    flags.FLAGS.set_default("tfxio_use_byte_size_batching", True)


def release_memory(seconds: float) -> None:
    """Returns memory that a step no longer needs to the system.

    Otherwise the encoded images that a step has read still count when the next one runs, and so do
    the graphs of a training, which refer to each other.

    Args:
        seconds: Wall time that the step took.
    """
    if seconds >= _LONG_SECS:
        gc.collect()
    # The C library keeps freed memory for later; only glibc has this function, which takes
    # milliseconds.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
