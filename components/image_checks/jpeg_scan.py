"""Checks that a JPEG's scans reach the end marker, which TensorFlow's decoder requires.

libjpeg fills missing data with grey and only warns, so OpenCV decodes half an image as if it were
complete; TensorFlow rejects it. Markers: ITU-T T.81, table B.1.
"""

import re
from typing import Final

# Markers that end entropy-coded data; excludes stuffed zeros, restarts and fill bytes.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END: Final = 0xD9
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
