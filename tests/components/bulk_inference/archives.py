"""Small archives of real and broken images for the bulk job's tests."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [height, width] or [height, width, 3] (RGB)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Encodes uint8 [height, width, 3] (RGB) with halved chroma."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=2)
    return stream.getvalue()


def digits(count: int, start: int = 0) -> dict[str, bytes]:
    """Scikit-learn's digits as PNGs of 8 by 8 pixels, by member name."""
    images = load_digits().images[start : start + count]
    levels = np.minimum(images * 16, 255).astype(np.uint8)
    return {f"digit_{start + at:04d}.png": png(level) for at, level in enumerate(levels)}


def noise(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Smooth random images, uint8."""
    draw = np.random.default_rng(seed)
    coarse = (max(2, shape[0] // 4), max(2, shape[1] // 4), *shape[2:])
    return [
        cv2.resize(
            draw.integers(0, 256, coarse, np.uint8),
            (shape[1], shape[0]),
            interpolation=cv2.INTER_CUBIC,
        )
        for _ in range(count)
    ]


def mixed(seed: int = 0) -> dict[str, bytes]:
    """Images of several sizes, channels and formats."""
    members = digits(20)
    for at, image in enumerate(noise(6, (21, 34, 3), seed)):
        members[f"photo_{at}.jpg"] = jpeg(image)
    for at, image in enumerate(noise(5, (40, 12), seed + 1)):
        members[f"scan_{at}.png"] = png(image)
    for at, image in enumerate(noise(3, (8, 8, 4), seed + 2)):
        members[f"alpha_{at}.png"] = png(image)
    return members


def broken() -> dict[str, bytes]:
    """One member with each defect that a header or the pixels show."""
    whole = png(noise(1, (30, 30))[0])
    photo = jpeg(noise(1, (64, 64, 3))[0])
    return {
        "bad/empty.png": b"",
        "bad/text.png": b"this is not an image",
        "bad/cut.png": whole[: len(whole) // 2],
        "bad/cut.jpg": photo[: len(photo) // 2],
        "bad/flipped.png": whole[:60] + bytes(40) + whole[100:],
        "bad/other.tiff": b"II*\x00" + bytes(60),
        "bad/inner.zip": b"PK\x03\x04" + bytes(60),
    }


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    """Writes members in order, stored, all dated alike."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> Path:
    """Writes members as files."""
    for name, data in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path
