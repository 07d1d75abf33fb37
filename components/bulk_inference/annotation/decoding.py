"""Checks and decodes batches of image files, and records the rejects.

It runs on the worker's threads; OpenCV and hashlib release the interpreter lock.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from components.bulk_inference.config import BatchConfig
from components.image_checks import ImageFaultError, ImageHeader, check, decode
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import LimitsConfig


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


def chunks(headers: list[ImageHeader], config: BatchConfig) -> Iterator[tuple[int, int]]:
    """Divides images into model calls by number of pixels and images.

    Args:
        headers: The headers of the images, in order.
        config: The limits; an image above the limit on pixels gets a call of its own.

    Yields:
        Start and exclusive end of each call.
    """
    begin = pixels = 0
    for place, header in enumerate(headers):
        area = header.height * header.width
        full = place - begin >= config.max_images or pixels + area > config.max_pixels
        if full and place > begin:
            yield begin, place
            begin, pixels = place, 0
        pixels += area
    if begin < len(headers):
        yield begin, len(headers)


def decode_into_groups(
    files: list[bytes], headers: list[ImageHeader]
) -> tuple[dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]], dict[int, ImageFaultError]]:
    """Decodes images and groups them by size, because the graph takes one size per call.

    Args:
        files: The image files.
        headers: Their headers.

    Returns:
        For each shape (height, width, channels) the positions and the pixels, uint8; and the
        faults of images that cannot be decoded, by position.
    """
    groups: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    faults: dict[int, ImageFaultError] = {}
    for place, (data, header) in enumerate(zip(files, headers, strict=True)):
        try:
            pixels = decode(data, header)
        except ImageFaultError as fault:
            faults[place] = fault
            continue
        places, images = groups.setdefault(pixels.shape, ([], []))
        places.append(place)
        images.append(pixels)
    return groups, faults


def upright_size(header: ImageHeader) -> tuple[int, int]:
    """Returns width and height after the EXIF orientation is applied."""
    if header.orientation >= 5:
        return header.height, header.width
    return header.width, header.height


def probe_jpeg() -> tuple[bytes, np.ndarray]:
    """Returns a JPEG on which decoders differ, and its pixels as OpenCV decodes them.

    It has noise, a size that is not a multiple of a block, and subsampled chroma, because decoders
    differ in the inverse transform and in the upsampling of chroma.

    Returns:
        The file, and uint8 [height, width, 3].
    """
    noise = np.random.default_rng(0).integers(0, 256, (47, 61, 3), np.uint8)
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, encoded = cv2.imencode(".jpg", noise, [*sampling, cv2.IMWRITE_JPEG_QUALITY, 90])
    file = encoded.tobytes()
    return file, decode(file, ImageHeader("jpeg", 47, 61, 3))


def probe_png() -> tuple[bytes, np.ndarray]:
    """Returns a PNG of a size that no model has, to test the resize, and its pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (67, 41, 3), np.uint8)
    _, encoded = cv2.imencode(".png", noise)
    file = encoded.tobytes()
    return file, decode(file, ImageHeader("png", 67, 41, 3))
