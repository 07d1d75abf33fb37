"""Ends a process whose parent was killed, as by the system when memory runs out.

The processes of ingest and of ServingCheck call it.
"""

import os
import threading
import time
from typing import Final

_LOOK_SECS: Final = 1.0


def end_with_parent() -> None:
    """Starts a thread that ends this process, whatever it is doing, when its parent has ended."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECS)
    os._exit(1)
