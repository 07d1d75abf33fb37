"""The first bytes of compressed streams, archives and images, by which their format is known.

The readers of archives use them, the check of images, which names what is no image, and
`locate.py`, which names files that no reader takes.
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

IMAGE_STARTS: Final = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF"),
    *(b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  "),
)
"""Of the usual image files."""

ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
"""Of a zip file with members, and of one without."""

SEVEN_ZIP_START: Final = b"7z\xbc\xaf\x27\x1c"
RAR_START: Final = b"Rar!"

# LZMA's starts hold the sizes of its dictionary, 8 MiB and 64 MiB: a `]` and zero bytes alone also
# begin a TFRecord file whose first record has 93 bytes.
_FOREIGN: Final = (
    (SEVEN_ZIP_START, "a 7z archive cannot be read; pack its files as a zip or a tar"),
    (RAR_START, "a rar archive cannot be read; pack its files as a zip or a tar"),
    (b"\x1f\x9d", "a file of Unix compress cannot be read; pack its files as a zip or a tar"),
    (b"\x04\x22\x4d\x18", "an LZ4 file cannot be read; pack its files as a zip or a tar"),
    (b"]\x00\x00\x80\x00", "an LZMA file cannot be read; pack its files as a zip or a tar"),
    (b"]\x00\x00\x00\x04", "an LZMA file cannot be read; pack its files as a zip or a tar"),
    (b"\x89HDF", "an HDF5 file cannot be read; save its images as files"),
    (b"\x93NUMPY", "a NumPy array cannot be read; save its images as files"),
    (b"MATLAB 5", "a MATLAB file cannot be read; save its images as files"),
    (b"ARROW1", "an Arrow file cannot be read; save it as Parquet"),
    (b"SQLite format", "a SQLite database cannot be read; save its images as files"),
    (b"%PDF-", "a PDF cannot be read; save its images as files"),
    (b"version https://git-lfs", "a pointer of Git LFS and not the file; run `git lfs pull`"),
)
_PAGE_STARTS: Final = (b"<!doctype html", b"<html", b"<?xml")


def fault_of_start(head: bytes) -> str:
    """Names a file that is none that vaeline reads, and what to do about it.

    Args:
        head: The first bytes of what should be an archive, a manifest or a file of records.

    Returns:
        What the file is and what helps; empty if it may be readable.
    """
    if head.lstrip().lower().startswith(_PAGE_STARTS):
        return "a web page and not the file; download it again"
    return next((fault for start, fault in _FOREIGN if head.startswith(start)), "")
