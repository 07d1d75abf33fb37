"""Validates one batch of members: header, limits, digest and decoding; failures become rejects.

It runs on threads, because hashing and decoding release the interpreter lock.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from components.image_checks import (
    ImageFaultError,
    ImageHeader,
    decode_reduced,
    encode_png,
    fit,
    model_pixels,
    verify,
)
from components.image_example_gen.ingest_job import IngestJob
from components.image_example_gen.pixel_keys import pixel_keys
from components.image_example_gen.splits import choose_slots
from components.image_findings.image_measures import MEASURES, measure_images
from components.image_sources.batch import MemberBatch, Reject
from components.image_sources.config import Store
from components.image_sources.corrections import read_corrections
from components.image_sources.named_counts import NamedCounts
from components.near_duplicates.perceptual_hash import SIDE, thumbnails
from components.unit_engine import check_batch
from trainer.config import ImageConfig

_SHOWN: Final = ImageConfig(height=SIDE, width=SIDE)
"""The image that is compared with others if the model's is unknown."""
_HELD_BYTES: Final = 4 * 1024 * 1024


@dataclass
class Inspected:
    """Holds the usable images of one batch as columns of equal length, and its rejects.

    Attributes:
        keys: `archive/member` of each image.
        data: The files as they are stored in the records.
        headers: The headers of the original files.
        digests: uint8 [n, 32], SHA-256 of the original content.
        labels: Class names, corrected; None if unknown.
        corrected: Number of images whose label was corrected.
        slots: uint8 [n], see `splits.SLOTS`.
        thumbs: uint8 [n, SIDE, SIDE], see `perceptual_hash.thumbnails`; n is 0 unless
            near-duplicates are looked for.
        measures: float32 [n, ...], see `image_measures.MEASURES`; n is 0 unless findings are
            looked for.
        pixel_keys: uint64 [n], see `pixel_keys.pixel_keys`; n is that of `measures`.
        named: Splits that the source names for any of the images.
        converted: Number of images that are stored as another file because the Transform graph
            does not decode the original as it has to.
        reduced: Number of images that are stored at the model's size.
        rejects: Rows of the rejects table.
        ignored: Entries that are no images by their names.
        renamed: Class names that could not be kept, see `MemberBatch.renamed`.
        origins: What was taken for labels and splits, see `MemberBatch.origins`.
    """

    keys: list[str]
    data: list[bytes]
    headers: list[ImageHeader]
    digests: np.ndarray
    labels: list[str | None]
    corrected: int
    slots: np.ndarray
    thumbs: np.ndarray
    measures: np.ndarray
    pixel_keys: np.ndarray
    named: set[str]
    converted: int
    reduced: int
    rejects: list[Reject]
    ignored: NamedCounts
    renamed: dict[str, str]
    origins: NamedCounts


def inspect(batch: MemberBatch, job: IngestJob) -> Inspected:
    """Checks every member of a batch.

    Args:
        batch: Members as read from their source.
        job: Limits, splits, and what to store.

    Returns:
        Images and rejects, which together are as many as the members and rejects of the batch.
    """
    corrections = read_corrections(job.input.labels.corrections, job.input.storage)
    checked = check_batch(batch, job.input.limits)
    every_digest = batch.digests()
    kept: list[int] = []
    data: list[bytes] = []
    headers: list[ImageHeader] = []
    converted = reduced = 0
    image = job.image or _SHOWN
    seen = _SeenImages(
        image, near=job.input.duplicates.near != "off", findings=job.input.findings.enabled
    )
    for i, header in zip(checked.places, checked.headers, strict=True):
        found = batch.data[i]
        pixels = None
        try:
            if corrections.is_taken_out(every_digest[i]):
                raise ImageFaultError("check", "taken_out", "by input.labels.corrections")
            if job.image is not None and _is_reduced(header, job.image, job.input.store):
                pixels = model_pixels(found, header, job.image)
                found = encode_png(pixels)
                reduced += 1
            elif header.convert:
                decoded = decode_reduced(found, header, job.image)
                found = encode_png(decoded)
                converted += 1
                pixels = fit(decoded, image) if seen.are_wanted else None
            elif seen.are_wanted:
                pixels = _shown(found, header, image)
            else:
                verify(found, header)
        except ImageFaultError as fault:
            checked.refuse(i, fault)
            continue
        if pixels is not None:
            seen.add(pixels, header)
        kept.append(i)
        data.append(found)
        headers.append(header)
    digests = np.frombuffer(b"".join(every_digest[i] for i in kept), np.uint8).reshape(-1, 32)
    given = [batch.labels[i] for i in kept]
    labels = [
        corrections.label(every_digest[i], label) for i, label in zip(kept, given, strict=True)
    ]
    splits = [batch.splits[i] for i in kept]
    keys = batch.keys
    return Inspected(
        keys=[keys[i] for i in kept],
        data=data,
        headers=headers,
        digests=digests,
        labels=labels,
        corrected=sum(new != old for new, old in zip(labels, given, strict=True)),
        slots=choose_slots(digests, labels, splits, job.input.splits),
        thumbs=seen.thumbnails(),
        measures=seen.measures(),
        pixel_keys=seen.pixel_keys(),
        named={split for split in splits if split},
        converted=converted,
        reduced=reduced,
        rejects=checked.rejects,
        ignored=batch.ignored,
        renamed=batch.renamed,
        origins=batch.origins,
    )


def _shown(data: bytes, header: ImageHeader, image: ImageConfig) -> np.ndarray:
    """Verifies a file by decoding what the model sees of it.

    Returns:
        uint8 [height, width, channels]; black if the file is usable, but cannot be decoded here.

    Raises:
        ImageFaultError: if the file cannot be decoded.
    """
    try:
        return model_pixels(data, header, image)
    except ImageFaultError:
        verify(data, header)
        return np.zeros(image.shape, np.uint8)


class _SeenImages:
    """Looks at many images at a time, but holds the pixels of a few megabytes only.

    Args:
        image: Size and channels of the pixels.
        near: Whether thumbnails are wanted.
        findings: Whether measures are wanted.
    """

    def __init__(self, image: ImageConfig, *, near: bool, findings: bool) -> None:
        self._near = near
        self._findings = findings
        self._pixels: list[np.ndarray] = []
        self._headers: list[ImageHeader] = []
        self._thumbs = [np.empty((0, SIDE, SIDE), np.uint8)]
        self._measures = [np.empty((0, len(MEASURES)), np.float32)]
        self._keys = [np.empty(0, np.uint64)]
        self._most = max(1, _HELD_BYTES // (image.height * image.width * image.channels))

    @property
    def are_wanted(self) -> bool:
        """Returns whether any pixels are looked at."""
        return self._near or self._findings

    def add(self, pixels: np.ndarray, header: ImageHeader) -> None:
        """Adds an image: uint8 [height, width, channels], and the header of its file."""
        if self.are_wanted:
            self._pixels.append(pixels)
            self._headers.append(header)
            if len(self._pixels) >= self._most:
                self._look()

    def _look(self) -> None:
        if self._pixels:
            pixels = np.stack(self._pixels)
            if self._near:
                self._thumbs.append(thumbnails(pixels))
            if self._findings:
                self._measures.append(measure_images(pixels, self._headers))
                self._keys.append(pixel_keys(pixels))
        self._pixels, self._headers = [], []

    def thumbnails(self) -> np.ndarray:
        """Returns the thumbnails of all images: uint8 [n, SIDE, SIDE]."""
        self._look()
        return np.concatenate(self._thumbs)

    def measures(self) -> np.ndarray:
        """Returns the measures of all images: float32 [n, len(MEASURES)]."""
        self._look()
        return np.concatenate(self._measures)

    def pixel_keys(self) -> np.ndarray:
        """Returns the hashes of the pixels of all images: uint64 [n]."""
        self._look()
        return np.concatenate(self._keys)


def _is_reduced(header: ImageHeader, image: ImageConfig, store: Store) -> bool:
    """Returns whether an image is stored at the model's size."""
    if store == "auto":
        return header.height * header.width > image.height * image.width
    return store == "model_size"
