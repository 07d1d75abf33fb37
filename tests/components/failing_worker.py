"""A worker process with a fault, for the tests of `workers.py`: which one, an image's width says.

Stands in for crashes of native decoders, which no test can order.
"""

import os
import signal
import time

import numpy as np

from components.image_checks import ImageHeader
from components.image_example_gen import inspection, worker
from trainer.config import ImageConfig

CRASH = 61
SLEEP = 62
BUG = 63

_model_pixels = inspection.model_pixels


def model_pixels(data: bytes, header: ImageHeader, image: ImageConfig) -> np.ndarray:
    """Fails in the way that the width asks for."""
    if header.width == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if header.width == SLEEP:
        time.sleep(7200)
    if header.width == BUG:
        raise KeyError("a bug")
    return _model_pixels(data, header, image)


if __name__ == "__main__":
    inspection.model_pixels = model_pixels
    worker.main()
