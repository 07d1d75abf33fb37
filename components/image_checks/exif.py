"""Reads the orientation tag of EXIF data, the only part of EXIF that affects pixels.

The header parsers of JPEG, PNG and WebP call it.
"""

import struct
from typing import Final

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_MOST_ENTRIES: Final = 512


def orientation_of(exif: bytes) -> int:
    """Reads the orientation from a TIFF header and its first directory.

    Args:
        exif: EXIF data, starting with `II` or `MM`.

    Returns:
        1 to 8 (EXIF 2.32, table 6); 1 if the tag is missing or damaged, because viewers show such
        images as they are.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(min(entries, _MOST_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(
                order + "HHIHxx", exif, directory + 2 + 12 * entry
            )
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def webp_orientation(data: bytes) -> int:
    """Reads the orientation from the EXIF chunk of a WebP."""
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data.startswith(b"EXIF", at):
            return orientation_of(data[at + 8 : at + 8 + length].removeprefix(b"Exif\x00\x00"))
        at += 8 + length + (length & 1)
    return 1
