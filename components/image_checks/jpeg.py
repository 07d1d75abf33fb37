"""Parses JPEG files: headers, and the order of segments and scans up to the end marker.

`checking.py` calls it. OpenCV decodes less strictly than TensorFlow: it fills missing data with
grey and reads nothing behind a sequential scan, so such files are examined here. Markers: ITU-T
T.81, table B.1.
"""

import struct
from typing import Final, NamedTuple

import numpy as np

from components.image_checks.exif import orientation_of
from components.image_checks.header import ImageHeader
from components.image_checks.reject_reasons import ImageFaultError

_SERVABLE: Final = frozenset((0xC0, 0xC1, 0xC2))
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset((0xC2, 0xCA))
_FRAME: Final = struct.Struct(">BHHB")
_START_OF_SCAN, _END, _EXIF, _ADOBE = 0xDA, 0xD9, 0xE1, 0xEE
# Whether a byte behind 0xFF ends entropy-coded data; stuffed zeros, fill bytes and restarts do not.
_ENDS_DATA: Final = np.array(
    [byte not in (0x00, 0xFF, *range(0xD0, 0xD8)) for byte in range(256)], bool
)
_WINDOW: Final = 256 * 1024
_MOST_BLOCKS: Final = 10
"""Blocks in one interleaved unit: ITU-T T.81, B.2.3."""
_TABLES: Final = frozenset((0xC4, 0xCC, 0xDB, 0xDD))
# Application data, comments, and the number of lines, which decoders skip.
_NOTES: Final = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDC))
_SMOOTHED: Final = 9
"""AC coefficients on whose accuracy libjpeg-turbo's smoothing of blocks depends."""


class _Frame(NamedTuple):
    marker: int
    bit_depth: int
    height: int
    width: int
    components: tuple[int, ...]


def parse_jpeg(data: bytes) -> ImageHeader | None:
    """Parses the segments (ITU-T T.81, annex B), and checks their order behind the first scan.

    Args:
        data: A file.

    Returns:
        Its header; None if it is no JPEG.

    Raises:
        ImageFaultError: reason `corrupt`, `truncated` or `unsupported_format`.
        IndexError, struct.error: The file ends in a header.
    """
    if data[2] != 0xFF:
        return None
    orientation, at, adobe = 1, 2, -1
    has_junk = False
    frame: _Frame | None = None
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
        if marker in (_START_OF_SCAN, _END):
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _FRAMES:
            if frame is not None:
                raise ImageFaultError("check", "corrupt", "a JPEG with two frame headers")
            frame = _read_frame(data, marker, at, length)
        elif marker == _EXIF and frame is None and data.startswith(b"Exif\x00\x00", at + 2):
            # EXIF has its place before the frame, and the served graph reads no further.
            orientation = orientation_of(data[at + 8 : at + length])
        elif marker == _ADOBE and data.startswith(b"Adobe", at + 2) and length >= 14:
            adobe = data[at + 13]
        at += length
    if frame is None:
        raise ImageFaultError("check", "corrupt", "a JPEG without a frame header")
    header = _header(frame, orientation, adobe)
    if marker == _END:
        raise ImageFaultError("check", "corrupt", "a JPEG without a scan")
    is_partial = _walk_scans(data, at, frame)
    if header.convert:
        return header
    if has_junk:
        # The served graph parses headers strictly.
        return header._replace(convert="JPEG with bytes between its segments")
    if is_partial:
        # How missing coefficients are smoothed over differs between versions of the decoder.
        return header._replace(convert="partial progressive JPEG")
    return header


def _read_frame(data: bytes, marker: int, at: int, length: int) -> _Frame:
    depth, height, width, count = _FRAME.unpack_from(data, at + 2)
    components = data[at + 8 : at + length]
    _check_sampling(components, count)
    return _Frame(marker, depth, height, width, tuple(components[: 3 * count : 3]))


def _header(frame: _Frame, turn: int, adobe: int) -> ImageHeader:
    """Makes the header; `adobe` is the colour transform, -1 without the marker."""
    marker, depth, height, width, components = frame
    samples = len(components)
    if depth != 8 or marker in (0xC3, 0xC5, 0xC6, 0xC7) or marker > 0xCA:
        raise ImageFaultError(
            "check", "unsupported_format", f"JPEG of {depth} bits, process {marker - 0xC0}"
        )
    if samples not in (1, 3, 4):
        raise ImageFaultError("check", "unsupported_format", f"JPEG of {samples} components")
    convert = ""
    if samples == 4:
        convert = "CMYK JPEG" if adobe < 0 else "inverted CMYK JPEG"
    elif marker not in _SERVABLE:
        convert = "arithmetic-coded JPEG"
    elif adobe == 0 and samples == 3:
        convert = "RGB JPEG"
    elif turn != 1:
        convert = "turned by EXIF"
    return ImageHeader("jpeg", height, width, 1 if samples == 1 else 3, 8, turn, 1, convert)


def _walk_scans(data: bytes, at: int, frame: _Frame) -> bool:
    """Follows the scans and the segments between them to the end marker.

    Args:
        data: The file.
        at: Position after the marker of the first scan.
        frame: The frame header.

    Returns:
        Whether a progressive image lacks coefficients.

    Raises:
        ImageFaultError: reason `truncated` without an end marker, `corrupt` with a segment that
            TensorFlow's decoder does not take there.
    """
    # With one scan for all components, a decoder may stop there, and OpenCV does. With several, all
    # decoders read to the end.
    is_progressive = frame.marker in _PROGRESSIVE
    is_single = not is_progressive and data[at + 2] >= len(frame.components)
    # The bits still missing of each coefficient: ITU-T T.81, G.1.1.1.1. Here -1: all of them. Only
    # progressive images can lack any.
    missing = {component: [-1] * 64 for component in frame.components if is_progressive}
    marker = _START_OF_SCAN
    while True:
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == _START_OF_SCAN:
            if at + length > len(data):
                raise ImageFaultError("check", "truncated", "the file ends in the header of a scan")
            _note_scan(data[at + 2 : at + length], missing)
        at += length
        at = _find_marker(data, at)
        marker = data[at]
        if marker == _END:
            break
        allowed = marker in _NOTES or (
            not is_single and (marker in _TABLES or marker == _START_OF_SCAN)
        )
        if not allowed:
            raise ImageFaultError("check", "corrupt", f"JPEG segment {marker:02x} behind a scan")
        at += 1
    return any(any(bits[1 : 1 + _SMOOTHED]) for bits in missing.values())


def _find_marker(data: bytes, at: int) -> int:
    """Returns the position of the first marker's second byte behind entropy-coded data.

    With NumPy, because a regular expression takes longer for a photo than decoding half of it.

    Raises:
        ImageFaultError: There is none.
    """
    while at + 1 < len(data):
        window = np.frombuffer(data, np.uint8, min(_WINDOW, len(data) - at), at)
        starts = np.flatnonzero(window[:-1] == 0xFF)
        found = starts[_ENDS_DATA[window[starts + 1]]]
        if len(found):
            return at + int(found[0]) + 1
        # The last byte may be the first of a marker.
        at += len(window) - 1
    raise ImageFaultError("check", "truncated", "JPEG without an end marker")


def _note_scan(header: bytes, missing: dict[int, list[int]]) -> None:
    """Notes which coefficients of which components a scan holds, and to which bit."""
    if not header or len(header) != 4 + 2 * header[0]:
        raise ImageFaultError("check", "corrupt", "the header of a JPEG scan has another length")
    *components, first, last, bits = header[1:]
    for component in components[::2]:
        if component in missing:
            accuracy = missing[component]
            accuracy[first : last + 1] = [bits & 15] * len(accuracy[first : last + 1])


def _check_sampling(components: bytes, count: int) -> None:
    """Rejects sampling factors that libjpeg does not implement: fractions, and too many blocks.

    Args:
        components: Three bytes each: identifier, factors, table.
        count: Number of components.
    """
    if len(components) < 3 * count:
        raise ImageFaultError("check", "corrupt", "a JPEG frame without all of its components")
    factors = [(byte >> 4, byte & 15) for byte in components[1 : 3 * count : 3]]
    across, down = ([factor[side] for factor in factors] for side in (0, 1))
    for sides in (across, down):
        if not all(1 <= side <= 4 and max(sides) % side == 0 for side in sides):
            shown = ", ".join(f"{x}x{y}" for x, y in factors)
            raise ImageFaultError(
                "check", "unsupported_format", f"JPEG of the sampling factors {shown}"
            )
    if count > 1 and sum(x * y for x, y in factors) > _MOST_BLOCKS:
        raise ImageFaultError("check", "unsupported_format", "JPEG of more than 10 blocks per unit")
