"""A worker process with a fault, for the tests of `workers.py`: which one, an image's width says.

Stands in for crashes of native decoders, which no test can order.
"""

import os
import signal
import time

from components.image_checks import ImageHeader
from components.image_example_gen import inspection, worker

CRASH = 61
SLEEP = 62
BUG = 63

_verify = inspection.verify


def verify(data: bytes, header: ImageHeader) -> None:
    """Fails in the way that the width asks for."""
    if header.width == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if header.width == SLEEP:
        time.sleep(7200)
    if header.width == BUG:
        raise KeyError("a bug")
    _verify(data, header)


if __name__ == "__main__":
    inspection.verify = verify
    worker.main()
