"""Bounds what directories of TIFF files and of EXIF data state, before Pillow copies it.

Pillow copies the values of all entries of a directory, and these may lie on each other: for a file
of 3 MB it would take 100 GB of memory. `pillow_formats.py` calls it.
"""

import re
import struct
from typing import Final

from components.image_checks.reject_reasons import ImageFaultError

_START: Final = re.compile(rb"(?:II|MM)(?:[*+]\0|\0[*+])")
"""Of TIFF and BigTIFF, with the order of bytes also as Pillow tolerates it."""
_SIZES: Final = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}
"""Bytes of a value by its kind; Pillow leaves out others."""
_DIRECTORIES: Final = frozenset((0x8769, 0x8825, 0xA005))
"""Tags whose values are places of further directories: EXIF, GPS and interoperability."""
_MOST, _MOST_FOUND = 2, 16
"""Times the size of the file that values may have: in a TIFF, in which a few entries may share one,
and where EXIF data is searched for, so that no pixels that look like its start are refused."""


def check_directories(data: bytes) -> None:
    """Raises if values in the directories of a file are several times as large as the file.

    Args:
        data: A TIFF, or a file in which EXIF data may be.

    Raises:
        ImageFaultError: if they are.
    """
    at_start = _START.match(data)
    left = (_MOST if at_start else _MOST_FOUND) * len(data)
    for found in [at_start] if at_start else _START.finditer(data):
        base = found.start()
        order = "<" if data[base : base + 1] == b"I" else ">"
        is_big = b"+" in found[0]
        pointer, count, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
        step = struct.calcsize("<" + entry)
        try:
            places = [struct.unpack_from(order + pointer, data, base + (8 if is_big else 4))[0]]
        except struct.error:
            continue
        while places:
            left -= step
            at = base + places.pop()
            try:
                (entries,) = struct.unpack_from(order + count, data, at)
                at += struct.calcsize("<" + count)
                for _ in range(entries):
                    tag, kind, number, value = struct.unpack_from(order + entry, data, at)
                    at += step
                    left -= max(step, min(number * _SIZES.get(kind, 0), len(data)))
                    if left < 0:
                        raise ImageFaultError(
                            "check", "corrupt", "its tags hold more than the whole file"
                        )
                    if tag in _DIRECTORIES:
                        places.append(value)
            except (struct.error, OverflowError):
                continue
