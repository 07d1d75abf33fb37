"""Ends what libraries leave running, so that a process whose work is done ends well.

`trainer/quick_imports.py` and the `vaeline` command call it.
"""

import atexit
import sys


def finalize_s3_at_exit() -> None:
    """Registers the end of the S3 client that older versions of pyarrow start on import.

    Otherwise its destructors log after the logger has been freed. Mostly nothing happens; now and
    then the process is killed by signal 11 (https://github.com/apache/arrow/issues/38364).
    """
    atexit.unregister(_finalize_s3)
    atexit.register(_finalize_s3)


def _finalize_s3() -> None:
    s3 = sys.modules.get("pyarrow._s3fs")
    # Newer versions register this themselves.
    if s3 is not None and not hasattr(s3, "ensure_s3_finalized"):
        s3.finalize_s3()
