"""Small valid image files of every format but HEIC, each for another path in the decoders.

`image_mutations.py` damages them, and `benchmarks/fuzz_decoders.py` begins with them.
"""

import io
import struct
import zlib
from typing import Final

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

FORMATS: Final = ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif", "jp2")

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
"""Begins every PNG."""


def valid_files() -> dict[str, bytes]:
    """Returns small valid files, by `format/kind`; each kind takes another path in the decoders."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 36, 4), np.uint8)
    smooth = cv2.GaussianBlur(colour, (5, 5), 2)
    picture = Image.fromarray(smooth[..., :3])
    noise = Image.fromarray(colour[:9, :12, :3])
    clear = Image.fromarray(colour[:9, :12], "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a picture")
    text.add(b"gAMA", struct.pack(">I", 45455))
    frames = {"save_all": True, "append_images": [noise.rotate(180)], "duration": 40}
    saved: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "jpeg/420": (picture, {}),
        "jpeg/444": (picture, {"subsampling": 0, "quality": 90}),
        "jpeg/422": (picture, {"subsampling": 1, "optimize": True}),
        "jpeg/grey": (picture.convert("L"), {}),
        "jpeg/progressive": (picture, {"progressive": True}),
        "jpeg/restarts": (picture, {"restart_marker_blocks": 2}),
        "jpeg/turned": (picture, {"exif": exif}),
        "jpeg/rgb": (picture, {"keep_rgb": True}),
        "jpeg/cmyk": (picture.convert("CMYK"), {}),
        "png/grey": (noise.convert("L"), {}),
        "png/colour": (noise, {"pnginfo": text}),
        "png/alpha": (clear, {}),
        "png/grey_alpha": (clear.convert("LA"), {}),
        "png/palette": (noise.quantize(16), {}),
        "png/clear_palette": (noise.quantize(200), {"transparency": 3}),
        "png/bits": (noise.convert("1"), {}),
        "png/clear_colour": (noise, {"transparency": (1, 2, 3)}),
        "png/turned": (noise, {"exif": exif}),
        "png/animated": (noise, frames),
        "gif/still": (noise, {}),
        "gif/clear": (noise.quantize(16), {"transparency": 3}),
        "gif/animated": (noise, frames),
        "bmp/colour": (noise, {}),
        "bmp/alpha": (clear, {}),
        "bmp/palette": (noise.quantize(16), {}),
        "bmp/bits": (noise.convert("1"), {}),
        "webp/lossy": (noise, {}),
        "webp/lossless": (noise, {"lossless": True}),
        "webp/alpha": (clear, {}),
        "webp/turned": (noise, {"exif": exif}),
        "webp/animated": (noise, frames),
        "tiff/colour": (noise, {}),
        "tiff/lzw": (picture, {"compression": "tiff_lzw"}),
        "tiff/deflate": (noise, {"compression": "tiff_adobe_deflate"}),
        "tiff/bits": (picture.convert("1"), {"compression": "tiff_lzw"}),
        "tiff/palette": (noise.quantize(16), {"compression": "packbits"}),
        "tiff/deep": (Image.fromarray(rng.integers(0, 65536, (9, 12), np.uint16)), {}),
        "tiff/alpha": (clear, {}),
        "tiff/cmyk": (noise.convert("CMYK"), {}),
        "tiff/turned": (noise, {"tiffinfo": {0x0112: 6}}),
        "tiff/pages": (noise, frames),
        "tiff/big": (noise, {"big_tiff": True}),
        "avif/colour": (picture, {}),
        "avif/grey": (picture.convert("L"), {}),
        "avif/alpha": (clear, {}),
        "avif/turned": (picture, {"exif": exif}),
        "avif/animated": (noise, frames),
        "jp2/colour": (noise, {}),
        "jp2/stream": (noise, {"no_jp2": True}),
        "jp2/alpha": (clear, {}),
        "jp2/tiles": (picture, {"tile_size": (16, 16)}),
    }
    files = {}
    for name, (image, options) in saved.items():
        sink = io.BytesIO()
        kind = name.partition("/")[0]
        image.save(sink, "JPEG2000" if kind == "jp2" else kind, **options)
        files[name] = sink.getvalue()
    deep = rng.integers(0, 65536, (9, 12, 3), np.uint16)
    files["png/deep"] = cv2.imencode(".png", deep)[1].tobytes()
    files["png/interlaced"] = _interlaced(colour[:9, :12, 0])
    return files


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Returns a PNG of chunks, given by kind and data, with their checksums."""
    return PNG_MAGIC + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _interlaced(samples: np.ndarray) -> bytes:
    """A grey PNG in the seven passes of https://www.w3.org/TR/png-3/#8InterlaceMethods."""
    rows = bytearray()
    for top, left, down, across in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        for row in samples[top::down, left::across]:
            rows += b"\0" + row.tobytes()
    height, width = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return png_of([(b"IHDR", head), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b"")])
