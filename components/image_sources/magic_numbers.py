"""The first bytes of compressed streams and of archives, by which their format is recognised.

The readers of archives use them, and the check of images, which names what is no image.
"""

from typing import Final

GZIP_START: Final = b"\x1f\x8b"
ZSTD_START: Final = b"\x28\xb5\x2f\xfd"
BZIP2_START: Final = b"BZh"
XZ_START: Final = b"\xfd7zXZ\x00"
ZSTD_STARTS: Final = (ZSTD_START, *(bytes((0x50 + at,)) + b"\x2a\x4d\x18" for at in range(16)))
"""Of zstd, and of the skippable frames that `pzstd` begins with."""
COMPRESSED_STARTS: Final = (GZIP_START, *ZSTD_STARTS, BZIP2_START, XZ_START)
"""Of the compressed streams in which tar files are read."""

ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
"""Of a zip file with members, and of one without."""

SEVEN_ZIP_START: Final = b"7z\xbc\xaf\x27\x1c"
RAR_START: Final = b"Rar!"
