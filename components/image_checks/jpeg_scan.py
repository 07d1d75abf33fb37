"""Checks that a JPEG's scans reach the end marker, which TensorFlow's decoder requires.

libjpeg fills missing data with grey and only warns, so OpenCV decodes half an image as if it were
complete; TensorFlow rejects it. Markers: ITU-T T.81, table B.1.
"""

import re
from typing import Final

from components.image_checks.reject_reasons import ImageFaultError

# Markers that end entropy-coded data; excludes stuffed zeros, restarts and fill bytes.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END: Final = 0xD9
_MOST_BLOCKS: Final = 10
"""Blocks in one interleaved unit: ITU-T T.81, B.2.3."""
# Segments with a length field: tables, frames and scans, comments and application data.
_WITH_LENGTH: Final = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE})


def fault_in_scans(data: bytes) -> tuple[str, str] | None:
    """Walks over all segments and scans, and returns the first fault.

    Args:
        data: A JPEG file.

    Returns:
        Reason and detail: `truncated` without an end marker, `corrupt` with an invalid marker;
        None for a valid file.
    """
    at = 2
    while found := _MARKER.search(data, at):
        marker = found.group(1)[0]
        if marker == _END:
            return None
        if marker not in _WITH_LENGTH:
            return "corrupt", f"JPEG marker {marker:02x} inside the image data"
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return "truncated", "JPEG without an end marker"


def check_sampling(components: bytes, count: int) -> None:
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
