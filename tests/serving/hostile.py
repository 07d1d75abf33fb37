"""Image files as servers get them: bombs, damage, turns. Made here, for the tests of the guards."""

import io
import struct

import numpy as np
from PIL import Image

from components.serving_check.probe import bomb

COARSE = np.kron(
    np.random.default_rng(3).integers(0, 256, (6, 5, 3)), np.ones((8, 8, 1), np.int64)
).astype(np.uint8)
"""uint8 [48, 40, 3]."""


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int, order: str) -> bytes:
    """A TIFF header and a directory of two entries, the second being the orientation."""
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    other = struct.pack(order + "HHIHH", 0x0100, 3, 1, 5, 0)
    turn = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 2) + other + turn + bytes(4)


def turned() -> dict[str, bytes]:
    """Every orientation, in JPEG and PNG, in both byte orders."""
    image = Image.fromarray(COARSE)
    files = {}
    for turn in range(1, 9):
        order = "<>"[turn % 2]
        files[f"jpeg {turn}"] = save(image, "JPEG", exif=b"Exif\x00\x00" + exif(turn, order))
        files[f"png {turn}"] = save(image, "PNG", exif=exif(turn, order))
    return files


def sound() -> dict[str, bytes]:
    """Files of every kind that is taken."""
    image, grey = Image.fromarray(COARSE), Image.fromarray(COARSE[..., 0])
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    jpeg, png = save(image, "JPEG"), save(image, "PNG")
    deep = np.random.default_rng(4).integers(0, 65536, (9, 7), np.uint16)
    return {
        "jpeg": jpeg,
        "jpeg with something behind": jpeg + b"behind",
        "grey jpeg": save(grey, "JPEG"),
        "progressive jpeg": save(image, "JPEG", progressive=True),
        "png": png,
        "png with something behind": png + b"behind",
        "palette png": save(palette, "PNG"),
        "one-bit png": save(grey.convert("1"), "PNG"),
        "16-bit png": save(Image.fromarray(deep), "PNG"),
        "gif": save(palette, "GIF"),
        "bmp": save(image, "BMP"),
    }


def faulty() -> dict[str, tuple[bytes, str]]:
    """Files that are refused, and what the message says."""
    image = Image.fromarray(COARSE)
    jpeg, png = save(image, "JPEG"), save(image, "PNG")
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    gif = save(image.convert("P"), "GIF")
    return {
        "empty": (b"", "empty, 0 bytes"),
        "text": (b"This is no image.\n" * 20, "not an image"),
        "half a jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "start of a jpeg": (jpeg[:20], "truncated"),
        "half a png": (png[: len(png) // 2], "truncated"),
        "half a gif": (gif[: len(gif) // 2], "truncated"),
        "bomb": (bomb(30_000), "too many pixels: 30000 x 30000"),
        "palette bmp": (save(image.convert("P"), "BMP"), "a kind of BMP"),
        "transparent gif": (save(palette, "GIF", transparency=3), "a GIF with transparency"),
        "gif of a part": (
            gif[:6] + struct.pack("<H", 41) + gif[8:],
            "a GIF with transparency",
        ),
        "gif with a larger frame": (
            # A second frame of 1 x 300 pixels behind the first one.
            gif[:-1] + b",\0\0\0\0\1\0\x2c\1\0\2\1\x2c\0;",
            "a GIF with transparency or frames of several sizes",
        ),
        "webp": (save(image, "WEBP"), "WebP"),
        "no webp": (b"RIFX" + bytes(4) + b"WEBP" + bytes(40), "not an image"),
        "tiff": (save(image, "TIFF"), "TIFF, which cannot be read"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC, which cannot be read"),
        "heif": (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIC, which cannot be read"),
        "avif": (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF, which cannot be read"),
        "arithmetic jpeg": (jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1), "a kind of JPEG"),
    }
