"""Whether a JPEG's scans run to its end marker: what TensorFlow's decoder insists on.

libjpeg fills what is missing with grey and only warns, so OpenCV shows half an image as a whole
one; TensorFlow refuses it. Markers: ITU-T T.81, table B.1.
"""

import re
from typing import Final

# A marker that ends entropy-coded data: not a stuffed zero, not a restart, not a fill byte.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END: Final = 0xD9
# Tables, frames and scans, comments and application data: they carry their length.
_WITH_LENGTH: Final = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE})


def fault_in_scans(data: bytes) -> tuple[str, str] | None:
    """Walks over all segments and scans.

    Args:
        data: A JPEG file.

    Returns:
        Reason and detail: `truncated` without an end marker, `corrupt` with a marker that cannot
        be there; None for a sound file.
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
