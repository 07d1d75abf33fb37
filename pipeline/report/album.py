"""Inlines pictures in a page: decoded within the usual limits, shrunk and charged to a budget.

All sections get their thumbnails here, which bounds the size of a report for any archive.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from components.image_checks import ImageFaultError, check, decode
from components.image_sources.config import LimitsConfig

LARGEST_SIDE: Final = 112
"""Largest side in pixels of a thumbnail."""
_SMALL: Final = 48
"""Largest side in pixels of images that are shown pixel by pixel and stored losslessly."""
_JPEG_QUALITY: Final = 82


@dataclass(frozen=True)
class Picture:
    """An inlined image.

    Attributes:
        uri: `data:` URI.
        width: width in pixels.
        height: height in pixels.
        crisp: whether its pixels are shown as squares.
    """

    uri: str
    width: int
    height: int
    crisp: bool


class Album:
    """Inlines pictures until the budget is used up.

    Args:
        budget: maximum size of all `data:` URIs together, in bytes.
    """

    def __init__(self, budget: int = 3_000_000) -> None:
        self._left = budget
        self.left_out = 0

    def picture(self, pixels: np.ndarray | None, side: int = LARGEST_SIDE) -> Picture | None:
        """Inlines an image.

        Args:
            pixels: uint8 [height, width] or [height, width, 1, 3 or 4]; None if there is no image.
            side: largest side in pixels; larger images are shrunk.

        Returns:
            The picture; None without an image or if the budget is used up.
        """
        if pixels is None:
            return None
        small = shrink(pixels, side)
        kind, content = _encode(small)
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
        if len(uri) > self._left:
            self.left_out += 1
            return None
        self._left -= len(uri)
        height, width = small.shape[:2]
        return Picture(uri, width, height, crisp=max(height, width) <= _SMALL)

    def file(self, content: bytes | None, side: int = LARGEST_SIDE) -> Picture | None:
        """Inlines an image file; returns None if it cannot be decoded."""
        return self.picture(decode_picture(content, side) if content else None, side)


def decode_picture(content: bytes, side: int | None = None) -> np.ndarray | None:
    """Decodes an image file within the limits for archive members.

    Args:
        content: The file.
        side: The side in pixels that is needed; a much larger JPEG is decoded at a fraction.

    Returns:
        uint8 [height, width, channels], upright; the readable part of a damaged file, or None.
    """
    header = check(content, LimitsConfig())
    if isinstance(header, ImageFaultError):
        return None
    ratio = 1
    while side and ratio < 8 and min(header.height, header.width) >= 4 * ratio * side:
        ratio *= 2
    try:
        return decode(content, header, ratio=ratio)
    except ImageFaultError:
        pass
    try:
        partial = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if partial is None else cv2.cvtColor(partial, cv2.COLOR_BGR2RGB)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrinks an image so that no side is longer than `side`; never enlarges it."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)
    return shrunk if shrunk.ndim == pixels.ndim else shrunk[..., np.newaxis]


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Fits an image into a grey square of `side` pixels: uint8 [side, side, 1 or 3]."""
    channels = 1 if pixels.ndim == 2 or pixels.shape[2] == 1 else 3
    small = shrink(pixels.reshape(*pixels.shape[:2], -1)[..., :channels], side)
    tile = np.full((side, side, channels), 128, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def sheet(images: Sequence[np.ndarray], columns: int, gap: int = 0) -> np.ndarray:
    """Arranges images of one shape in a grid, row by row.

    Args:
        images: uint8 [height, width, channels] each.
        columns: number of images per row; the rest of the last row is grey.
        gap: gap between images in pixels.

    Returns:
        uint8 [height, width, channels].
    """
    height, width, channels = images[0].shape
    rows = -(-len(images) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    canvas = np.full(shape, 128, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def spaced(tiles: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Arranges tiles of one shape in a row with transparent gaps.

    Args:
        tiles: uint8 [height, width, 1 or 3] each.
        gap: width of the gaps in pixels.

    Returns:
        uint8 [height, width, 4].
    """
    colour = [np.repeat(t, 3, axis=2) if t.shape[2] == 1 else t[..., :3] for t in tiles]
    opaque = [np.pad(tile, ((0, 0), (0, 0), (0, 1)), constant_values=255) for tile in colour]
    row = [np.pad(tile, ((0, 0), (0, gap), (0, 0))) for tile in opaque]
    return np.concatenate(row, axis=1)[:, :-gap]


def _encode(pixels: np.ndarray) -> tuple[str, bytes]:
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), order)
    is_plain = pixels.ndim == 2 or pixels.shape[2] != 4
    if max(pixels.shape[:2]) > _SMALL and is_plain:
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        return "jpeg", jpeg.tobytes()
    _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return "png", png.tobytes()
