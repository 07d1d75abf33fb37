"""Checks image files by their headers and structure, before any pixel is decoded.

Ingest and the bulk job call it for every member, so each format is parsed with a few `struct`
reads. The parsers treat all input as hostile.
"""

import struct
from collections.abc import Callable
from typing import Final

from components.image_checks.exif import webp_orientation
from components.image_checks.header import ImageHeader
from components.image_checks.jpeg import parse_jpeg
from components.image_checks.pillow_formats import parse_boxes, parse_tiff
from components.image_checks.png import parse_png
from components.image_checks.reject_reasons import ImageFaultError
from components.image_sources.config import RATIO_FLOOR, LimitsConfig
from components.image_sources.magic_numbers import (
    BZIP2_START,
    GZIP_START,
    RAR_START,
    SEVEN_ZIP_START,
    XZ_START,
    ZIP_STARTS,
    ZSTD_START,
)

# Unsupported formats that the rejects table names instead of "not an image".
_OTHER_IMAGES: Final = (
    (4, b"ftypcrx ", "camera raw"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (0, b"IIRO", "camera raw"),
    (0, b"IIRS", "camera raw"),
    (0, b"IIU\x00", "camera raw"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "icon"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance"),
    (0, b"%PDF-", "PDF"),
    (0, b"<svg", "SVG"),
    *((0, b"P%d" % kind + space, "PNM") for kind in range(1, 7) for space in (b"\n", b"\r", b" ")),
    (128, b"DICM", "DICOM"),
)
# What else is found where an image should be, and what helps.
_LEFT_BY_DOWNLOADS: Final = (
    (b"version https://git-lfs", "a pointer of Git LFS; run `git lfs pull`"),
    (b"<!doctype html", "a web page; download the image again"),
    (b"<html", "a web page; download the image again"),
    (b"\x00\x00\x08\x03", "an IDX file; unpack the archive and name its folder"),
)
_PICKLE_STARTS: Final = tuple(b"\x80%c" % protocol for protocol in range(2, 6))
_ARCHIVES: Final = (
    *((0, start, "zip") for start in ZIP_STARTS),
    (0, GZIP_START, "gzip"),
    (0, ZSTD_START, "zstd"),
    (0, BZIP2_START, "bzip2"),
    (0, XZ_START, "xz"),
    (0, SEVEN_ZIP_START, "7z"),
    (0, RAR_START, "rar"),
    (257, b"ustar", "tar"),
)


def check(data: bytes, limits: LimitsConfig) -> ImageHeader | ImageFaultError:
    """Parses the header and checks it against the limits, without decoding pixels.

    Args:
        data: The file's bytes.
        limits: Limits on bytes, pixels and ratio.

    Returns:
        The header, or the fault of the file (returned rather than raised, because invalid files
        are an ordinary case).
    """
    if not data:
        return ImageFaultError("check", "empty", "0 bytes")
    if len(data) > limits.max_bytes:
        return ImageFaultError(
            "check", "too_large", f"{len(data)} bytes; limits.max_bytes is {limits.max_bytes}"
        )
    parser = _PARSERS.get(data[:2])
    try:
        header = parser(data) if parser else None
    except (struct.error, IndexError):
        return ImageFaultError("check", "truncated", f"the header ends after {len(data)} bytes")
    except ImageFaultError as fault:
        return fault
    if header is None:
        return _unknown(data)
    height, width = header.height, header.width
    if height <= 0 or width <= 0:
        return ImageFaultError("check", "corrupt", f"the header says {width} x {height} pixels")
    if height * width > limits.max_pixels:
        return ImageFaultError(
            "check",
            "too_many_pixels",
            f"{width} x {height} pixels; limits.max_pixels is {limits.max_pixels}",
        )
    unpacked = height * width * header.channels * header.bit_depth // 8
    if unpacked > RATIO_FLOOR and unpacked > limits.max_ratio * len(data):
        return ImageFaultError(
            "check",
            "too_compressed",
            f"{len(data)} bytes unpack to {unpacked}; limits.max_ratio is {limits.max_ratio:g}",
        )
    return header


def _unknown(data: bytes) -> ImageFaultError:
    """Returns the fault of a file that is not a supported image, naming its actual type."""
    for offset, magic, name in _ARCHIVES:
        if data.startswith(magic, offset):
            return ImageFaultError("check", "nested_archive", f"a {name} archive; unpack it")
    for offset, magic, name in _OTHER_IMAGES:
        if data.startswith(magic, offset):
            return ImageFaultError("check", "unsupported_format", name)
    for start, what in _LEFT_BY_DOWNLOADS:
        if data[: len(start)].lower() == start:
            return ImageFaultError("check", "not_an_image", what)
    if data.startswith(_PICKLE_STARTS) and data.endswith(b"."):
        what = "a Python pickle, as of CIFAR's batches; save its images as files"
        return ImageFaultError("check", "not_an_image", what)
    return ImageFaultError("check", "not_an_image", f"content starts with {data[:8].hex(' ')}")


def _gif(data: bytes) -> ImageHeader | None:
    """Parses a GIF's logical screen and detects whether a second frame follows."""
    if not data.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    frames, end = 0, len(data)
    while frames < 2 and at < end and data[at] != 0x3B:
        if data[at] == 0x2C:
            frames += 1
            local = data[at + 9]
            at += 11 + (3 << ((local & 7) + 1) if local & 0x80 else 0)
        else:
            at += 2
        while at < end and data[at]:
            at += 1 + data[at]
        at += 1
    if not frames:
        raise ImageFaultError("check", "truncated", "a GIF without a frame")
    return ImageHeader("gif", height, width, 3, 8, 1, frames, "GIF")


def _bmp(data: bytes) -> ImageHeader | None:
    """Parses a device-independent bitmap header, OS/2 or Windows."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, planes, depth = struct.unpack_from("<HHHH", data, 18)
    elif 40 <= size <= 124:
        width, height, planes, depth = struct.unpack_from("<iiHH", data, 18)
    else:
        return None
    if planes != 1 or depth not in (1, 4, 8, 16, 24, 32):
        return None
    return ImageHeader("bmp", abs(height), width, 4 if depth == 32 else 3, 8, 1, 1, "BMP")


def _webp(data: bytes) -> ImageHeader | None:
    """Parses a WebP container: https://developers.google.com/speed/webp/docs/riff_container."""
    if data[8:12] != b"WEBP":
        return None
    (riff,) = struct.unpack_from("<I", data, 4)
    if riff + 8 > len(data):
        raise ImageFaultError("check", "truncated", f"{len(data)} of {riff + 8} bytes")
    kind = data[12:16]
    orientation, frames, channels = 1, 1, 3
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        channels = 4 if bits >> 28 & 1 else 3
    elif kind == b"VP8X":
        flags = data[20]
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        channels = 4 if flags & 0x10 else 3
        frames = 2 if flags & 0x02 else 1
        if flags & 0x08:
            orientation = webp_orientation(data)
    else:
        raise ImageFaultError("check", "corrupt", f"WebP chunk {kind!r}")
    return ImageHeader("webp", height, width, channels, 8, orientation, frames, "WebP")


_PARSERS: Final[dict[bytes, Callable[[bytes], ImageHeader | None]]] = {
    b"\x89P": parse_png,
    b"\xff\xd8": parse_jpeg,
    b"GI": _gif,
    b"BM": _bmp,
    b"RI": _webp,
    b"II": parse_tiff,
    b"MM": parse_tiff,
    b"\0\0": parse_boxes,
    b"\xff\x4f": parse_boxes,
}
