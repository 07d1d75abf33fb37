"""Parses the headers of image files, and the checksums of PNGs, before any pixel is decoded.

Ingest and the bulk job call it for every member, so each format is parsed with a few `struct`
reads. The parsers treat all input as hostile.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from components.image_checks.exif import orientation_of, webp_orientation
from components.image_checks.jpeg_scan import check_sampling
from components.image_checks.reject_reasons import ImageFaultError
from components.image_sources.config import RATIO_FLOOR, LimitsConfig


class ImageHeader(NamedTuple):
    """Holds the properties of an image that its header states.

    Attributes:
        format: `jpeg`, `png`, `gif`, `bmp` or `webp`, by content.
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


_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD: Final = struct.Struct(">I4sIIBBBBB")
_PNG_CHUNK: Final = struct.Struct(">I4s")
_PNG_CHECKSUM: Final = struct.Struct(">I")
_PNG_CRITICAL: Final = frozenset((b"PLTE", b"IDAT", b"IEND"))
_PNG_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS: Final = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}

_SOF_SERVABLE: Final = frozenset((0xC0, 0xC1, 0xC2))
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_FRAME: Final = struct.Struct(">BHHB")

# Unsupported formats that the rejects table names instead of "not an image".
_OTHER_IMAGES: Final = (
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "icon"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance"),
    (0, b"%PDF-", "PDF"),
    (0, b"<svg", "SVG"),
)
_ARCHIVES: Final = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!", "rar"),
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
            return ImageFaultError("check", "nested_archive", f"a {name} archive")
    for offset, magic, name in _OTHER_IMAGES:
        if data.startswith(magic, offset):
            return ImageFaultError("check", "unsupported_format", name)
    return ImageFaultError("check", "not_an_image", f"content starts with {data[:8].hex(' ')}")


def _png(data: bytes) -> ImageHeader | None:
    """Parses a PNG's IHDR (https://www.w3.org/TR/png-3/#11IHDR) and chunks that affect decoding."""
    if not data.startswith(_PNG):
        return None
    length, kind, width, height, depth, colour, *methods = _PNG_HEAD.unpack_from(data, 8)
    if length != 13 or kind != b"IHDR" or depth not in _PNG_DEPTHS.get(colour, ()):
        raise ImageFaultError(
            "check", "corrupt", f"PNG header of colour type {colour}, depth {depth}"
        )
    if methods not in ([0, 0, 0], [0, 0, 1]):
        raise ImageFaultError("check", "corrupt", f"PNG header of the methods {methods}")
    orientation = frames = 1
    transparent = False
    at, end = 33, len(data)
    unpack = _PNG_CHUNK.unpack_from
    view = memoryview(data)
    _check_png_chunk(view, b"IHDR", 8, 13)
    while True:
        if at + 12 > end:
            raise ImageFaultError("check", "truncated", "no IEND chunk")
        length, kind = unpack(data, at)
        if kind in _PNG_CRITICAL:
            # OpenCV 5 decodes images with wrong checksums; TensorFlow's libpng rejects them.
            _check_png_chunk(view, kind, at, length)
            if kind == b"IEND":
                break
        elif not kind[0] & 0x20:
            raise ImageFaultError("check", "corrupt", f"unknown critical PNG chunk {kind!r}")
        if kind == b"tRNS":
            transparent = True
        elif kind == b"acTL":
            frames = 2
        elif kind == b"eXIf":
            orientation = orientation_of(data[at + 8 : at + 8 + length])
        at += 12 + length
    channels = _PNG_SAMPLES[colour]
    convert = ""
    if colour == 3:
        channels = 4 if transparent else 3
    elif colour == 4:
        channels, convert = 4, "grey PNG with alpha"
    elif transparent:
        channels, convert = 4, "PNG with a transparent colour"
    if depth == 16:
        convert = "16-bit PNG"
    elif frames > 1:
        convert = "animated PNG"
    elif orientation != 1:
        convert = "turned by EXIF"
    return ImageHeader("png", height, width, channels, depth, orientation, frames, convert)


def _check_png_chunk(view: memoryview, kind: bytes, at: int, length: int) -> None:
    """Verifies a chunk's checksum: https://www.w3.org/TR/png-3/#5CRC-algorithm."""
    end = at + 8 + length
    if end + 4 > len(view):
        raise ImageFaultError("check", "truncated", f"the file ends in its {kind.decode()} chunk")
    if zlib.crc32(view[at + 4 : end]) != _PNG_CHECKSUM.unpack_from(view, end)[0]:
        raise ImageFaultError("check", "corrupt", f"the checksum of a {kind.decode()} chunk")


def _jpeg(data: bytes) -> ImageHeader | None:
    """Parses the markers of a JPEG up to the first scan: ITU-T T.81, annex B."""
    if data[2] != 0xFF:
        return None
    orientation, at, adobe = 1, 2, -1
    has_junk = False
    frame: tuple[int, int, int, int, int] | None = None
    while True:
        if data[at] != 0xFF:
            # libjpeg skips such bytes, and so do TensorFlow and Pillow.
            has_junk = True
            at = data.find(b"\xff", at)
            if at < 0:
                raise ImageFaultError("check", "truncated", "no JPEG marker after the header")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if not marker:
            # A stuffed zero: not a marker, but more of what is skipped.
            has_junk = True
            continue
        at += 1
        if marker == 0xDA:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:
            if marker == 0xD9:
                break
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _SOF:
            frame = (marker, *_JPEG_FRAME.unpack_from(data, at + 2))
            check_sampling(data[at + 8 : at + length], frame[-1])
        elif marker == 0xE1 and data.startswith(b"Exif\x00\x00", at + 2):
            orientation = orientation_of(data[at + 8 : at + length])
        elif marker == 0xEE and data.startswith(b"Adobe", at + 2) and length >= 14:
            adobe = data[at + 13]
        at += length
    if frame is None:
        raise ImageFaultError("check", "corrupt", "a JPEG without a frame header")
    header = _jpeg_header(frame, orientation, adobe)
    if has_junk and not header.convert:
        # The served graph parses headers strictly.
        return header._replace(convert="JPEG with bytes between its segments")
    return header


def _jpeg_header(frame: tuple[int, int, int, int, int], turn: int, adobe: int) -> ImageHeader:
    """Parses a JPEG's frame header; `adobe` is the colour transform, -1 without the marker."""
    marker, depth, height, width, samples = frame
    if depth != 8 or marker in (0xC3, 0xC5, 0xC6, 0xC7) or marker > 0xCA:
        raise ImageFaultError(
            "check", "unsupported_format", f"JPEG of {depth} bits, process {marker - 0xC0}"
        )
    if samples not in (1, 3, 4):
        raise ImageFaultError("check", "unsupported_format", f"JPEG of {samples} components")
    convert = ""
    if samples == 4:
        convert = "CMYK JPEG"
    elif marker not in _SOF_SERVABLE:
        convert = "arithmetic-coded JPEG"
    elif adobe == 0 and samples == 3:
        convert = "RGB JPEG"
    elif turn != 1:
        convert = "turned by EXIF"
    return ImageHeader("jpeg", height, width, 1 if samples == 1 else 3, 8, turn, 1, convert)


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
    b"\x89P": _png,
    b"\xff\xd8": _jpeg,
    b"GI": _gif,
    b"BM": _bmp,
    b"RI": _webp,
}
