"""Small archives for tests, made from scratch: sound ones in every format, and every defect."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
import zstandard
from PIL import Image

from components.image_sources.example_proto import example_class

Files = Mapping[str, bytes]


def pixels(seed: int, height: int = 9, width: int = 12, channels: int = 1) -> np.ndarray:
    """Random uint8 [height, width, channels] that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def png(seed: int = 0, height: int = 9, width: int = 12, channels: int = 1) -> bytes:
    """A PNG of `pixels`."""
    return _saved(pixels(seed, height, width, channels), "PNG")


def jpeg(seed: int = 0, height: int = 24, width: int = 40, channels: int = 3) -> bytes:
    """A JPEG of `pixels`."""
    return _saved(pixels(seed, height, width, channels), "JPEG")


def _saved(array: np.ndarray, image_format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(
        sink, image_format, **options
    )
    return sink.getvalue()


def png16(seed: int = 0) -> bytes:
    """A grey PNG of 16 bits."""
    values = np.random.default_rng(seed).integers(0, 65536, (9, 12), np.uint16)
    return cv2.imencode(".png", values)[1].tobytes()


def cmyk_jpeg(seed: int = 0) -> bytes:
    """A JPEG as printers have it."""
    sink = io.BytesIO()
    Image.fromarray(pixels(seed, 24, 40, 4), "CMYK").save(sink, "JPEG")
    return sink.getvalue()


def turned_jpeg(orientation: int, seed: int = 0) -> bytes:
    """A JPEG, 24 rows and 40 columns as stored, that viewers turn."""
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.GaussianBlur(pixels(seed, 24, 40, 3), (9, 9), 4)
    Image.fromarray(smooth).save(sink, "JPEG", exif=exif, quality=95)
    return sink.getvalue()


def gif(frames: int = 1, seed: int = 0) -> bytes:
    """A GIF, animated if it has several frames."""
    images = [Image.fromarray(pixels(seed + i, 9, 12, 3)) for i in range(frames)]
    sink = io.BytesIO()
    images[0].save(sink, "GIF", save_all=frames > 1, append_images=images[1:])
    return sink.getvalue()


def webp(seed: int = 0) -> bytes:
    """A lossless WebP."""
    return _saved(pixels(seed, 9, 12, 3), "WEBP", lossless=True)


def bmp(seed: int = 0) -> bytes:
    """A Windows bitmap."""
    return _saved(pixels(seed, 9, 12, 3), "BMP")


def tiff(seed: int = 0, **options: object) -> bytes:
    """A TIFF in colours; `options` as of Pillow's writer."""
    return _saved(pixels(seed, 9, 12, 3), "TIFF", **options)


def avif(seed: int = 0, **options: object) -> bytes:
    """A lossy AVIF, 24 rows and 40 columns."""
    return _saved(cv2.GaussianBlur(pixels(seed, 24, 40, 3), (9, 9), 4), "AVIF", **options)


def jpeg_2000(seed: int = 0, **options: object) -> bytes:
    """A lossless JPEG 2000."""
    return _saved(pixels(seed, 9, 12, 3), "JPEG2000", **options)


def blank_png(side: int, depth: int = 8, rows: int | None = None) -> bytes:
    """A grey PNG of one value; its header says `side` rows, its data has `rows` of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row_bytes = side * depth // 8 + 1
    data = zlib.compress(bytes(row_bytes * (side if rows is None else rows)), 9)
    head = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def defects() -> dict[str, tuple[bytes, str]]:
    """Files that are no usable images, with the reason each must get."""
    sound = png(1)
    return {
        "bad/empty.png": (b"", "empty"),
        "bad/text.png": (b"this is no image\n", "not_an_image"),
        "bad/cut.png": (sound[: len(sound) // 2], "truncated"),
        "bad/head.png": (sound[:20], "truncated"),
        "bad/flipped.png": (sound[:50] + bytes([sound[50] ^ 4]) + sound[51:], "corrupt"),
        "bad/cut.jpg": (jpeg(3)[:400], "truncated"),
        "bad/cut.gif": (gif()[:100], "truncated"),
        "bad/cut.webp": (webp()[:100], "truncated"),
        "bad/cut.bmp": (bmp()[:100], "truncated"),
        "bad/depth.tif": (
            _saved(pixels(4, 9, 12).astype("float32"), "TIFF"),
            "unsupported_format",
        ),
        "bad/cut.tif": (tiff()[:400], "truncated"),
        "bad/inner.zip": (zip_bytes({"a/1.png": sound}), "nested_archive"),
        "bad/inner.tar": (tar_bytes({"a/1.png": sound}), "nested_archive"),
        "bad/bomb.png": (blank_png(30_000, depth=1, rows=10), "too_many_pixels"),
        "bad/blank.png": (blank_png(6000), "too_compressed"),
        "bad/rows.png": (blank_png(100, rows=50), "corrupt"),
        "bad/large.png": (png(5, 300, 300, 3), "too_large"),
    }


def classes(per_class: int = 6, names: Sequence[str] = ("cat", "dog", "öl")) -> dict[str, bytes]:
    """Images in class folders: `cat/0.png`, ...; all different."""
    return {
        f"{name}/{i}.png": png(1000 * number + i)
        for number, name in enumerate(names)
        for i in range(per_class)
    }


def write_folder(root: Path, files: Files) -> Path:
    """Writes a folder tree."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zip_bytes(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tar_bytes(files: Files, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar, not packed."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def write(path: Path, files: Files) -> Path:
    """Writes an archive in the format that its name says; a name without a dot is a folder."""
    name = path.name
    if name.endswith(".zip"):
        path.write_bytes(zip_bytes(files))
    elif name.endswith(".tar"):
        path.write_bytes(tar_bytes(files))
    elif name.endswith(".tar.gz"):
        path.write_bytes(gzip.compress(tar_bytes(files)))
    elif name.endswith(".tar.zst"):
        path.write_bytes(zstandard.compress(tar_bytes(files)))
    elif name.endswith((".csv", ".jsonl")):
        write_manifest(path, files)
    else:
        write_folder(path, files)
    return path


def write_manifest(path: Path, files: Files) -> None:
    """Writes files beside a manifest that names them; labels are their folders."""
    write_folder(path.parent / "files", files)
    rows = [{"path": f"files/{name}", "label": name.rpartition("/")[0]} for name in files]
    if path.suffix == ".csv":
        lines = ["path,label", *(f'"{row["path"]}","{row["label"]}"' for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_idx(
    folder: Path, stem: str, images: np.ndarray, labels: Sequence[int], pack: bool
) -> Path:
    """Writes an IDX pair; gives the image file. `images` is uint8 [n, height, width]."""
    suffix = ".gz" if pack else ""
    squeeze = gzip.compress if pack else bytes
    image_file = folder / f"{stem}-images-idx3-ubyte{suffix}"
    head = struct.pack(">I3I", 0x803, *images.shape)
    image_file.write_bytes(squeeze(head + images.tobytes()))
    label_head = struct.pack(">II", 0x801, len(labels))
    label_file = folder / f"{stem}-labels-idx1-ubyte{suffix}"
    label_file.write_bytes(squeeze(label_head + bytes(labels)))
    return image_file


def example(**values: bytes | int) -> bytes:
    """A serialised tf.Example; `__` in a name stands for `/`."""
    message = example_class()()
    for name, value in values.items():
        feature = message.features.feature[name.replace("__", "/")]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return message.SerializeToString()


def tfrecord_bytes(records: Sequence[bytes]) -> bytes:
    """A TFRecord file."""

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, masked(length), record, masked(record)]
    return b"".join(parts)
