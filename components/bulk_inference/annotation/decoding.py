"""Checks and decodes batches of image files, and records the rejects.

It runs on the worker's threads; OpenCV and hashlib release the interpreter lock.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from components.bulk_inference.config import BatchConfig
from components.image_checks import (
    ImageFaultError,
    ImageHeader,
    check,
    jpeg_ratio,
    model_pixels,
    to_signature,
)
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import LimitsConfig
from trainer.config import ImageConfig
from trainer.data.scales import KEPT_SCALE


@dataclass
class Checked:
    """Separates the members with valid headers from the rejects.

    Attributes:
        places: Positions in the batch of the members that may be decoded.
        headers: The headers of these members.
        rejects: The members whose headers are invalid.
    """

    places: list[int] = field(default_factory=list)
    headers: list[ImageHeader] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def digests(batch: MemberBatch) -> list[str]:
    """Returns the SHA-256 of every member's bytes as 64 lower-case hexadecimal digits."""
    return [hashlib.sha256(data).hexdigest() for data in batch.data]


def check_batch(batch: MemberBatch, skip: Collection[int], limits: LimitsConfig) -> Checked:
    """Validates the headers without decoding any pixels.

    Args:
        batch: A batch of a source.
        skip: Positions to skip.
        limits: Limits on bytes, pixels and ratio.
    """
    checked = Checked()
    for place, data in enumerate(batch.data):
        if place in skip:
            continue
        header = check(data, limits)
        if isinstance(header, ImageFaultError):
            checked.rejects.append(reject_of(batch, place, header))
        else:
            checked.places.append(place)
            checked.headers.append(header)
    return checked


def reject_of(batch: MemberBatch, place: int, fault: ImageFaultError) -> Reject:
    """Returns the row of the rejects table for one member."""
    return Reject(batch.source, batch.names[place], fault.stage, fault.reason, fault.detail)


def chunks(areas: Sequence[int], config: BatchConfig) -> Iterator[tuple[int, int]]:
    """Divides images into model calls by number of pixels and images.

    Args:
        areas: Pixels that each image has in a call, in order.
        config: The limits; an image above the limit on pixels gets a call of its own.

    Yields:
        Start and exclusive end of each call.
    """
    begin = pixels = 0
    for place, area in enumerate(areas):
        full = place - begin >= config.max_images or pixels + area > config.max_pixels
        if full and place > begin:
            yield begin, place
            begin, pixels = place, 0
        pixels += area
    if begin < len(areas):
        yield begin, len(areas)


def decode_all(
    files: Sequence[bytes], headers: Sequence[ImageHeader], image: ImageConfig
) -> tuple[list[int], np.ndarray, dict[int, ImageFaultError]]:
    """Decodes images to the model's pixels.

    Args:
        files: The image files.
        headers: Their headers.
        image: What the model needs.

    Returns:
        The positions of the images that can be decoded, their pixels, uint8 [n, height, width,
        channels], and the faults of the others, by position.
    """
    kept: list[int] = []
    pixels = np.empty((len(files), *image.shape), np.uint8)
    faults: dict[int, ImageFaultError] = {}
    for place, (data, header) in enumerate(zip(files, headers, strict=True)):
        try:
            pixels[len(kept)] = model_pixels(data, header, image)
            kept.append(place)
        except ImageFaultError as fault:
            faults[place] = fault
    return kept, pixels[: len(kept)], faults


def for_signatures(
    files: Sequence[bytes], headers: Sequence[ImageHeader]
) -> tuple[dict[int, bytes], dict[int, ImageFaultError]]:
    """Converts the files that the model's signatures would refuse.

    Returns:
        Files and faults, by position.
    """
    accepted: dict[int, bytes] = {}
    faults: dict[int, ImageFaultError] = {}
    for place, (data, header) in enumerate(zip(files, headers, strict=True)):
        try:
            accepted[place] = to_signature(data, header)
        except ImageFaultError as fault:
            faults[place] = fault
    return accepted, faults


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
