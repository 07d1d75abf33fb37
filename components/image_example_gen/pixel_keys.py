"""Hashes the pixels of images, to find equal ones in files of other content."""

import zlib

import numpy as np


def pixel_keys(pixels: np.ndarray) -> np.ndarray:
    """Hashes the pixels of images: CRC-32 and Adler-32, which cost less than findings do.

    Args:
        pixels: uint8 [n, height, width, channels].

    Returns:
        uint64 [n]; 0 for an image of one level, because blank images are alike without being
        copies.
    """
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    keys = [zlib.crc32(row) << 32 | zlib.adler32(row) for row in rows]
    return np.where(rows.min(axis=1) == rows.max(axis=1), 0, np.array(keys, np.uint64))
