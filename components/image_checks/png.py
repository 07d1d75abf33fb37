"""Parses PNG files: headers, checksums and chunks that affect decoding. `checking.py` calls it."""

import struct
import zlib
from typing import Final

from components.image_checks.exif import orientation_of
from components.image_checks.header import ImageHeader
from components.image_checks.reject_reasons import ImageFaultError

_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_HEAD: Final = struct.Struct(">I4sIIBBBBB")
_CHUNK: Final = struct.Struct(">I4s")
_CHECKSUM: Final = struct.Struct(">I")
_CRITICAL: Final = frozenset((b"PLTE", b"IDAT", b"IEND"))
_ANIMATION: Final = frozenset((b"acTL", b"fcTL", b"fdAT"))
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS: Final = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}


def parse_png(data: bytes) -> ImageHeader | None:
    """Parses the IHDR (https://www.w3.org/TR/png-3/#11IHDR) and the chunks that affect decoding.

    Args:
        data: A file.

    Returns:
        Its header; None if it is no PNG.

    Raises:
        ImageFaultError: reason `corrupt` or `truncated`.
    """
    if not data.startswith(_MAGIC):
        return None
    length, kind, width, height, depth, colour, *methods = _HEAD.unpack_from(data, 8)
    if length != 13 or kind != b"IHDR" or depth not in _DEPTHS.get(colour, ()):
        raise ImageFaultError(
            "check", "corrupt", f"PNG header of colour type {colour}, depth {depth}"
        )
    if methods not in ([0, 0, 0], [0, 0, 1]):
        raise ImageFaultError("check", "corrupt", f"PNG header of the methods {methods}")
    orientation = frames = 1
    transparent = has_pixels = False
    at, end = 33, len(data)
    unpack = _CHUNK.unpack_from
    view = memoryview(data)
    _check_chunk(view, b"IHDR", 8, 13)
    while True:
        if at + 12 > end:
            raise ImageFaultError("check", "truncated", "no IEND chunk")
        length, kind = unpack(data, at)
        if kind in _CRITICAL:
            # OpenCV 5 decodes images with wrong checksums; TensorFlow's libpng rejects them.
            _check_chunk(view, kind, at, length)
            if kind == b"IEND":
                break
            has_pixels |= kind == b"IDAT"
        elif not kind[0] & 0x20:
            raise ImageFaultError("check", "corrupt", f"unknown critical PNG chunk {kind!r}")
        if kind == b"tRNS":
            transparent = True
        elif kind == b"acTL":
            frames = 2
        elif kind == b"eXIf" and not has_pixels:
            # Its place is before the pixels, and the served graph reads no further.
            orientation = orientation_of(data[at + 8 : at + 8 + length])
        at += 12 + length
    channels = _SAMPLES[colour]
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


def _check_chunk(view: memoryview, kind: bytes, at: int, length: int) -> None:
    """Verifies a chunk's checksum: https://www.w3.org/TR/png-3/#5CRC-algorithm."""
    end = at + 8 + length
    if end + 4 > len(view):
        raise ImageFaultError("check", "truncated", f"the file ends in its {kind.decode()} chunk")
    if zlib.crc32(view[at + 4 : end]) != _CHECKSUM.unpack_from(view, end)[0]:
        raise ImageFaultError("check", "corrupt", f"the checksum of a {kind.decode()} chunk")


def without_animation(data: bytes) -> bytes:
    """Returns a PNG with its default image only, which viewers without animation show.

    OpenCV returns the first frame instead, blended over black, and black if there is no frame.

    Args:
        data: A PNG that `parse_png` accepted.
    """
    parts, at = [_MAGIC], len(_MAGIC)
    while at + 12 <= len(data):
        length, kind = _CHUNK.unpack_from(data, at)
        if kind not in _ANIMATION:
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)
