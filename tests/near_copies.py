"""Pictures and near-copies of them, made from scratch, for the tests of near-duplicates."""

import cv2
import numpy as np


def picture(seed: int, side: int = 64, channels: int = 1) -> np.ndarray:
    """A smooth random picture with edges: uint8 [side, side, channels]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 210, (6, 6, channels)).astype(np.float32)
    scene = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, -1)
    for _ in range(3):
        centre = tuple(int(at) for at in random.integers(side // 5, side * 4 // 5, 2))
        level = tuple(float(level) for level in random.integers(20, 210, channels))
        scene = np.ascontiguousarray(scene)
        cv2.circle(scene, centre, int(random.integers(side // 12, side // 5)), level, -1)
    return np.clip(scene, 10, 215).astype(np.uint8).reshape(side, side, channels)


def reencoded(pixels: np.ndarray) -> np.ndarray:
    """What JPEG of quality 30 leaves."""
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])
    return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED).reshape(pixels.shape)


def resized(pixels: np.ndarray) -> np.ndarray:
    """Smaller by 0.7."""
    height, width = (round(0.7 * side) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, -1)


def cropped(pixels: np.ndarray) -> np.ndarray:
    """Without 5 % of either side, at the upper left."""
    height, width = (round(0.95 * side) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[-height:, -width:])


def brighter(pixels: np.ndarray) -> np.ndarray:
    """Brighter by 15 %."""
    return np.clip(np.round(pixels * 1.15), 0, 255).astype(np.uint8)


def darker(pixels: np.ndarray) -> np.ndarray:
    """Darker by 15 %."""
    return np.round(pixels * 0.85).astype(np.uint8)


COPIES = (reencoded, resized, cropped, brighter, darker)


def png_of(pixels: np.ndarray) -> bytes:
    """A PNG of grey or BGR pixels."""
    return cv2.imencode(".png", pixels)[1].tobytes()
