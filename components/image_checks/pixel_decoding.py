"""Verifies and decodes pixels, and converts formats that TensorFlow cannot decode.

Ingest calls it for every image, as does the bulk job; OpenCV and zlib release the interpreter lock.
"""

import io
import re
from typing import Final

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from components.image_checks.header import ImageHeader
from components.image_checks.pillow_formats import PILLOW_FORMATS, decode_by_pillow
from components.image_checks.png import without_animation
from components.image_checks.reject_reasons import ImageFaultError

_UNCHANGED: Final = cv2.IMREAD_UNCHANGED
# Errors of a JPEG are in its entropy-coded data, which is read completely at any scale; at an
# eighth of the size and without chroma, the rest of the decoding costs next to nothing.
_PROBE_JPEG: Final = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION

# Denominator of the scale of the inverse DCT -> OpenCV's modes for grey and for colour.
_JPEG_MODES: Final = {
    1: (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR),
    2: (cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_COLOR_2),
    4: (cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_REDUCED_COLOR_4),
    8: (cv2.IMREAD_REDUCED_GRAYSCALE_8, cv2.IMREAD_REDUCED_COLOR_8),
}

_TAGS: Final = re.compile(rb"(\xff[\xe1\xe2]..)(?=Exif\0\0|MPF\0)[EM]", re.DOTALL)
"""EXIF and multi-picture data of a JPEG. Pillow copies the value of every tag in them, and tags may
share one, so that a small file would fill the memory; nothing here needs them."""
_BY_PILLOW: Final = frozenset(("CMYK JPEG", "inverted CMYK JPEG", "RGB JPEG"))

# EXIF orientation -> quarter turns counter-clockwise, then a mirror (EXIF 2.32, table 6).
_TURNS: Final = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True)} | {
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


def verify(data: bytes, header: ImageHeader) -> None:
    """Verifies at the lowest possible cost that every pixel can be decoded.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.

    Raises:
        ImageFaultError: if it cannot be decoded; reason `truncated`, `corrupt` or
            `unsupported_format`.
    """
    if header.convert:
        decode(data, header)
        return
    buffer = np.frombuffer(data, np.uint8)
    try:
        pixels = cv2.imdecode(buffer, _PROBE_JPEG if header.format == "jpeg" else _UNCHANGED)
    except cv2.error as error:
        raise _fault(header) from error
    if pixels is None:
        raise _fault(header)


def decode(data: bytes, header: ImageHeader, *, ratio: int = 1) -> np.ndarray:
    """Decodes to upright 8-bit pixels.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.
        ratio: 1, 2, 4 or 8: a JPEG is decoded to this fraction of its size, rounded up.

    Returns:
        uint8 [height, width, channels], channels 1, 3 (RGB) or 4 (RGBA) as `header.channels`;
        the orientation may swap height and width. 16-bit samples are divided by 257 and rounded.
        Of a file of several images it is the first, of an animated PNG the default image.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    if header.format in PILLOW_FORMATS:
        return decode_by_pillow(data, header)
    by_pillow = header.format in ("gif", "bmp") or header.convert in _BY_PILLOW
    by = _decode_pillow if by_pillow else _decode_opencv
    pixels = by(data, header, ratio)
    turns, mirror = _TURNS[header.orientation]
    if turns:
        pixels = np.rot90(pixels, turns)
    if mirror:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [height, width, 1, 3 or 4] (grey, RGB, RGBA) as PNG."""
    if pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    _, encoded = cv2.imencode(".png", pixels)
    return encoded.tobytes()


def _fault(header: ImageHeader) -> ImageFaultError:
    return ImageFaultError(
        "decode", "corrupt", f"{header.width} x {header.height} {header.format} does not decode"
    )


def _decode_opencv(data: bytes, header: ImageHeader, ratio: int) -> np.ndarray:
    """Decodes JPEG, PNG and WebP without applying the orientation."""
    jpeg_flags = _JPEG_MODES[ratio][header.channels > 1] | cv2.IMREAD_IGNORE_ORIENTATION
    flags = jpeg_flags if header.format == "jpeg" else _UNCHANGED
    if header.format == "png" and header.frames > 1:
        data = without_animation(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _fault(header) from error
    if pixels is None:
        raise _fault(header)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)


def _decode_pillow(data: bytes, header: ImageHeader, ratio: int) -> np.ndarray:
    """Decodes GIF, BMP and CMYK JPEG, which OpenCV lacks or decodes unlike viewers do."""
    if header.format == "jpeg":
        data = _TAGS.sub(rb"\1_", data)
    try:
        with Image.open(io.BytesIO(data), formats=[header.format]) as image:
            if image.size != (header.width, header.height):
                # A GIF's frame may claim to be larger than its screen and so evade the limits.
                raise ValueError(f"a frame of {image.width} x {image.height} pixels")
            if ratio > 1:
                # Pillow divides the size by this one. Halves of whole numbers are exact, and a side
                # of one pixel must not become zero.
                size = image.width / ratio, image.height / ratio
                image.draft("", size)  # type: ignore[arg-type]
            if image.mode == "CMYK":
                return _without_black(np.asarray(image), header)
            mode = {1: "L", 3: "RGB", 4: "RGBA"}[header.channels]
            return np.asarray(image.convert(mode)).reshape(*image.size[::-1], header.channels)
    except (OSError, ValueError, SyntaxError, IndexError, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):
            # Its text is the address of the file in memory.
            raise _fault(header) from error
        said, reason = str(error).lower(), "corrupt"
        if "truncated" in said or "not enough image data" in said:
            reason = "truncated"
        elif said.startswith("unsupported"):
            reason = "unsupported_format"
        raise ImageFaultError(
            "decode", reason, f"{header.width} x {header.height} {header.format}: {error}"
        ) from error


def _without_black(inks: np.ndarray, header: ImageHeader) -> np.ndarray:
    """Converts CMYK to RGB as TensorFlow does, so that the served graph has the same pixels.

    Files with Adobe's marker store inverted samples. Pillow takes all files for such.
    """
    light = inks.astype(np.uint16)
    if header.convert == "inverted CMYK JPEG":
        light = np.uint16(255) - light
    return (light[..., :3] * light[..., 3:] // np.uint16(255)).astype(np.uint8)
