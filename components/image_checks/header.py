"""Defines what the header of an image file states; all modules of this package use it."""

from typing import NamedTuple


class ImageHeader(NamedTuple):
    """Holds the properties of an image that its header states.

    Attributes:
        format: `jpeg`, `png`, `gif`, `bmp`, `webp`, `tiff`, `avif`, `jp2` or
            `heic`, by content.
        height: Rows as stored, pixels; `orientation` is not applied.
        width: Columns as stored, pixels; `orientation` is not applied.
        channels: 1 (grey), 3 (colour) or 4 (colour and alpha) after decoding to RGB.
        bit_depth: Bits per sample.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        frames: 1, or 2 for any larger number.
        convert: The reason why the served graph cannot decode the file; empty if it can.
    """

    format: str
    height: int
    width: int
    channels: int
    bit_depth: int = 8
    orientation: int = 1
    frames: int = 1
    convert: str = ""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width in pixels after the EXIF orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)
