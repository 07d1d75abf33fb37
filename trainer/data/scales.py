"""Defines the constants of the model's pixels, which both implementations share.

They are `trainer/data/pixels.py` and `components/image_checks/model_pixels.py`; the latter must not
import TensorFlow, so the constants are not in the former.
"""

from typing import Final

JPEG_RATIOS: Final = (1, 2, 4, 8)
"""Denominators of the scales at which libjpeg's inverse DCT can decode."""

KEPT_SCALE: Final = 2
"""Multiple of the model's size that the cheap reductions before the resize leave."""

LARGEST_BLOCK: Final = 64
"""Most rows and columns of a block of the box filter, pixels; its sums are exact in float32."""
