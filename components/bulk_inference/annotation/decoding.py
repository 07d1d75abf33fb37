"""Chooses the way from each image file to the model's pixels, and groups images into model calls.

`batch_rows.py` calls it on the worker's threads, `handler.py` to try a way once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from more_itertools import constrained_batches

from components.bulk_inference.config import BatchConfig
from components.image_checks import ImageHeader, jpeg_ratio
from trainer.config import ImageConfig
from trainer.data.scales import KEPT_SCALE


class ModelCall(NamedTuple):
    """Names the images that one call of the model takes.

    Attributes:
        at: Their positions among the images asked about, ascending.
        is_decoded_here: Whether they are decoded here, and not by the model's graph.
    """

    at: tuple[int, ...]
    is_decoded_here: bool


def model_calls(
    headers: Sequence[ImageHeader],
    decodes_here: Callable[[ImageHeader], bool],
    image: ImageConfig,
    limits: BatchConfig,
) -> Iterator[ModelCall]:
    """Groups images into model calls that are bounded in images and pixels.

    Args:
        headers: The headers of the images.
        decodes_here: Returns whether an image may be decoded outside the model's graph.
        image: What the model needs. An image that is decoded here has its size in the call.
        limits: The bounds; an image above the limit on pixels gets a call of its own.
    """
    here = [decodes_here(header) for header in headers]

    def area(at: int) -> int:
        size = image if here[at] else headers[at]
        return size.height * size.width

    for is_here in (True, False):
        alike = [at for at in range(len(headers)) if here[at] is is_here]
        for call in constrained_batches(
            alike, limits.max_pixels, limits.max_images, get_len=area, strict=False
        ):
            yield ModelCall(call, is_here)


class Route(NamedTuple):
    """One way from a file to the model's pixels; models of earlier releases may take another.

    Attributes:
        format: `jpeg`, or `png` for all formats whose pixels do not depend on the decoder.
        ratio: Denominator of the scale that a JPEG is decoded at.
        is_fitted: Whether the decoded image has another size or other channels than the model's.
    """

    format: str
    ratio: int
    is_fitted: bool

    @property
    def is_certain(self) -> bool:
        """Returns whether every model that vaeline ever exported agrees on it."""
        return self.format == "png" and not self.is_fitted

    def probe(self, image: ImageConfig) -> tuple[bytes, ImageHeader]:
        """Returns a file of this route on which decoders and resizes differ, and its header.

        It has noise, subsampled chroma, and, if fitted, a size that is not a multiple of a block.

        Args:
            image: What the model needs.
        """
        height, width = image.height, image.width
        if self.is_fitted:
            # Above the least size for each scale, and odd.
            height, width = (KEPT_SCALE * self.ratio * side + 5 for side in (height, width))
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        header = ImageHeader(self.format, height, width, 3)
        if self.format == "png":
            return cv2.imencode(".png", noise)[1].tobytes(), header
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
        _, encoded = cv2.imencode(".jpg", noise, [*sampling, cv2.IMWRITE_JPEG_QUALITY, 90])
        return encoded.tobytes(), header


def route_of(header: ImageHeader, image: ImageConfig) -> Route:
    """Returns the way from a file to the model's pixels."""
    is_fitted = (*header.upright_size, header.channels) != image.shape
    if header.format != "jpeg" or header.convert:
        return Route("png", 1, is_fitted)
    return Route("jpeg", jpeg_ratio(header, image), is_fitted)
