"""Computes the model's input pixels from an image file, without TensorFlow.

Ingest and the bulk job call it. It is the counterpart of `trainer/data/pixels.py`, which documents
the definition; OpenCV and Pillow release the interpreter lock.
"""

import numpy as np
from PIL import Image

from components.image_checks.header import ImageHeader
from components.image_checks.pixel_decoding import decode, encode_png
from trainer.config import ImageConfig
from trainer.data.scales import JPEG_RATIOS, KEPT_SCALE, LARGEST_BLOCK

# JPEGs that the Transform graph cannot decode as it has to, but the signatures can. A PNG of all
# their pixels would not do, because the scale of decoding depends on the format.
_BY_SIGNATURES = ("turned by EXIF", "CMYK JPEG", "inverted CMYK JPEG", "RGB JPEG")


def model_pixels(data: bytes, header: ImageHeader, image: ImageConfig) -> np.ndarray:
    """Decodes an image as the served model would, to the model's size and channels.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.
        image: Size, channels and fit of the result.

    Returns:
        uint8 [height, width, channels], bit for bit what the served graph computes from the file.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    return fit(decode_reduced(data, header, image), image)


def decode_reduced(
    data: bytes, header: ImageHeader, image: ImageConfig | None = None
) -> np.ndarray:
    """Decodes an image at the scale from which the model's pixels are made.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.
        image: What the model needs; None: unknown, and JPEGs are decoded at their full size.

    Returns:
        uint8 [height, width, channels], see `decode`.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    ratio = jpeg_ratio(header, image) if image is not None else 1
    return decode(data, header, ratio=ratio)


def to_servable(data: bytes, header: ImageHeader, image: ImageConfig | None = None) -> bytes:
    """Returns a file that the served graph decodes: JPEG or PNG of 8 bits, upright, one frame.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.
        image: What the model needs; None: unknown, and JPEGs are decoded at their full size.

    Returns:
        The file itself if the Transform graph supports it (not verified, see `verify`); otherwise a
        PNG from which the graph computes the same pixels as the served model from the file.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    if not header.convert:
        return data
    return encode_png(decode_reduced(data, header, image))


def to_signature(data: bytes, header: ImageHeader) -> bytes:
    """Returns a file that the served signatures decode, which know the model's size themselves.

    Args:
        data: The file's bytes.
        header: Its header, from `check`.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    return data if header.convert in _BY_SIGNATURES else to_servable(data, header)


def jpeg_ratio(header: ImageHeader, image: ImageConfig) -> int:
    """Returns the denominator, 1 to 8, of the scale at which a file is decoded; 1 but for JPEGs.

    It is the largest that leaves twice the size that the model needs.
    """
    if header.format != "jpeg":
        return 1
    height, width = header.upright_size
    enough = any if image.fit == "pad" else all
    for ratio in JPEG_RATIOS[:0:-1]:
        if enough(
            (
                height // ratio >= KEPT_SCALE * image.height,
                width // ratio >= KEPT_SCALE * image.width,
            )
        ):
            return ratio
    return 1


def fit(pixels: np.ndarray, image: ImageConfig) -> np.ndarray:
    """Converts decoded pixels to the model's channels and size.

    Args:
        pixels: uint8 [any height, any width, 1 to 4 channels].
        image: Size, channels and fit of the result.

    Returns:
        uint8 [height, width, channels].
    """
    if pixels.shape == image.shape:
        return pixels
    mode = "L" if image.channels == 1 else "RGB"
    layers = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(layers)).convert(mode)
    columns, rows = picture.size
    height, width = image.height, image.width
    if image.fit == "crop":
        kept_rows = min(rows, _scaled(columns, height, width))
        kept_columns = min(columns, _scaled(rows, width, height))
        top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
        picture = picture.crop((left, top, left + kept_columns, top + kept_rows))
    if image.fit == "pad":
        height = min(height, _scaled(rows, width, columns))
        width = min(width, _scaled(columns, image.height, rows))
    fitted = np.asarray(_resize(picture, height, width)).reshape(height, width, image.channels)
    if fitted.shape == image.shape:
        return fitted
    padded = np.zeros(image.shape, np.uint8)
    top, left = (image.height - height) // 2, (image.width - width) // 2
    padded[top : top + height, left : left + width] = fitted
    return padded


def _scaled(side: int, by: int, over: int) -> int:
    """Returns side * by / over, rounded half up, at least 1."""
    return max(1, (2 * side * by + over) // (2 * over))


def _resize(picture: Image.Image, height: int, width: int) -> Image.Image:
    columns, rows = picture.size
    block_rows = min(max(1, rows // (KEPT_SCALE * height)), LARGEST_BLOCK)
    block_columns = min(max(1, columns // (KEPT_SCALE * width)), LARGEST_BLOCK)
    if block_rows * block_columns > 1:
        left, top = columns % block_columns // 2, rows % block_rows // 2
        right = left + columns // block_columns * block_columns
        bottom = top + rows // block_rows * block_rows
        picture = picture.reduce((block_columns, block_rows), (left, top, right, bottom))
    return picture.resize((width, height), Image.Resampling.BILINEAR)
