"""Validates one batch of members: header, limits, digest and decoding; failures become rejects.

It runs on threads, because hashing and decoding release the interpreter lock.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from components.image_checks import ImageFaultError, ImageHeader, check, to_servable, verify
from components.image_example_gen.splits import choose_slots
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import InputConfig
from components.image_sources.named_counts import NamedCounts


@dataclass
class Inspected:
    """Holds the usable images of one batch as columns of equal length, and its rejects.

    Attributes:
        keys: `archive/member` of each image.
        data: The files as they are stored in the records.
        headers: The headers of the stored files, after any conversion.
        formats: The original formats, detected by content.
        digests: uint8 [n, 32], SHA-256 of the original content.
        labels: Class names; None if unknown.
        slots: uint8 [n], see `splits.SLOTS`.
        named: Splits that the source names for any of the images.
        converted: Number of images whose stored file differs from the original.
        rejects: Rows of the rejects table.
        ignored: Entries that are no images by their names.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        origins: What was taken for labels and splits, see `MemberBatch.origins`.
    """

    keys: list[str]
    data: list[bytes]
    headers: list[ImageHeader]
    formats: list[str]
    digests: np.ndarray
    labels: list[str | None]
    slots: np.ndarray
    named: set[str]
    converted: int
    rejects: list[Reject]
    ignored: NamedCounts
    renamed: dict[str, str]
    origins: NamedCounts


def inspect(batch: MemberBatch, config: InputConfig) -> Inspected:
    """Checks every member of a batch.

    Args:
        batch: Members as read from their source.
        config: Limits and splits.

    Returns:
        Images and rejects, which together are as many as the members and rejects of the batch.
    """
    limits = config.limits
    kept: list[int] = []
    data: list[bytes] = []
    headers: list[ImageHeader] = []
    formats: list[str] = []
    rejects = list(batch.rejects)
    converted = 0
    for i, found in enumerate(batch.data):
        header = check(found, limits)
        if isinstance(header, ImageFaultError):
            rejects.append(_reject(batch, i, header))
            continue
        found_format = header.format
        try:
            if header.convert:
                found, header = _convert(found, header)
                converted += 1
            else:
                verify(found, header)
        except ImageFaultError as fault:
            rejects.append(_reject(batch, i, fault))
            continue
        kept.append(i)
        data.append(found)
        headers.append(header)
        formats.append(found_format)
    content = batch.data if batch.identity is None else batch.identity
    joined = b"".join([hashlib.sha256(content[i]).digest() for i in kept])
    digests = np.frombuffer(joined, np.uint8).reshape(-1, 32)
    labels = [batch.labels[i] for i in kept]
    splits = [batch.splits[i] for i in kept]
    keys = batch.keys
    return Inspected(
        keys=[keys[i] for i in kept],
        data=data,
        headers=headers,
        formats=formats,
        digests=digests,
        labels=labels,
        slots=choose_slots(digests, labels, splits, config.splits),
        named={split for split in splits if split},
        converted=converted,
        rejects=rejects,
        ignored=batch.ignored,
        renamed=batch.renamed,
        origins=batch.origins,
    )


def _convert(data: bytes, header: ImageHeader) -> tuple[bytes, ImageHeader]:
    """Converts an image that the served graph cannot decode to PNG."""
    turned = header.orientation >= 5
    height, width = (header.width, header.height) if turned else (header.height, header.width)
    return to_servable(data, header), ImageHeader("png", height, width, header.channels)


def _reject(batch: MemberBatch, row: int, fault: ImageFaultError) -> Reject:
    return Reject(batch.source, batch.names[row], fault.stage, fault.reason, fault.detail)
