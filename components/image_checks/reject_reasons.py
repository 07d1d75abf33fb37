"""Defines the reasons in the rejects table, and the fault of an unusable image.

Sources, image checks, ingest and the bulk job use these reasons and no others.
"""

from typing import Final

REASONS: Final[dict[str, str]] = {
    "empty": "no bytes at all",
    "too_large": "more bytes than limits.max_bytes",
    "too_many_pixels": "more pixels than limits.max_pixels",
    "too_compressed": "a decompression bomb: a ratio above limits.max_ratio",
    "not_an_image": "the content is of no image format, whatever the name says",
    "unsupported_format": "an image format, or a kind of it, that cannot be read here",
    "truncated": "the image ends before its data does",
    "corrupt": "the header is an image's, but the pixels cannot be decoded",
    "encrypted": "a password-protected member",
    "checksum": "the bytes do not match the archive's checksum",
    "unreadable": "the bytes cannot be read",
    "missing": "the manifest names a file that is not there",
    "link": "a symbolic or hard link in an archive",
    "device": "a device, pipe or socket",
    "nested_archive": "an archive inside an archive",
    "overlap": "a zip member that shares its bytes with another: a decompression bomb",
    "bad_record": "a record without an image, or of another shape than its file says",
    "bad_label": "a label number that has no name",
    "bad_split": "a split that is not one of train, validation, calibration, test, unlabelled",
    "taken_out": "a correction says that the image belongs to no class",
    "model_failed": "the model cannot process it; in bulk jobs only",
}
"""Meaning of every reason."""


class ImageFaultError(ValueError):
    """Reports why a file is not a usable image.

    Attributes:
        stage: `check` if the header reveals the fault, `decode` if the pixels do.
        reason: A key of `REASONS`.
        detail: A description of the fault for a human reader.
    """

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail
