"""Reads TIFF, AVIF, JPEG 2000 and HEIC by Pillow, because the served graph cannot decode them.

`checking.py` reads their headers by it, and `pixel_decoding.py` their pixels.
"""

import importlib
import io
import logging
import re
import struct
import warnings
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from PIL import AvifImagePlugin, ImageFile, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin

from components.image_checks.header import ImageHeader
from components.image_checks.reject_reasons import ImageFaultError
from components.image_checks.tiff_directories import check_directories

TIFF, AVIF, JPEG_2000, HEIC = "tiff", "avif", "jp2", "heic"
PILLOW_FORMATS: Final = frozenset((TIFF, AVIF, JPEG_2000, HEIC))
"""Values of `ImageHeader.format` that this module decodes."""

_NAMES: Final = {TIFF: "TIFF", AVIF: "AVIF", JPEG_2000: "JPEG 2000", HEIC: "HEIC"}
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of TIFF and BigTIFF, in both orders of bytes."""
_JPEG_2000_STARTS: Final = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""Of the file format and of the bare codestream."""
_MOST_COMPONENTS: Final = 16
"""Components of a JPEG 2000 that are looked at."""
_AVIF_BRANDS: Final = (b"avif", b"avis")
_MOST_BRANDS: Final = 1024
"""Bytes of the box that are looked at."""
_HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_COMMON_BRANDS: Final = (b"mif1", b"msf1")
"""Of both; the other brands then say which it is."""

_GREY: Final = frozenset(("1", "L"))
_DEEP: Final = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_COLOUR: Final = frozenset(("P", "RGB", "RGBX", "CMYK", "YCbCr"))
_CLEAR: Final = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))
"""Modes of Pillow, by what becomes of them: grey, 16-bit grey, colour, colour with alpha."""

# Tags of TIFF 6.0, and of DNG.
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _DNG_VERSION = 254, 258, 262, 284, 50706
_IS_THUMBNAIL: Final = 1
_CANON: Final = b"CR"
"""After the header of Canon's raw files, instead of a directory."""
_RAW: Final = "camera raw"
_UNKNOWN_MODE: Final = re.compile("unknown (pixel|raw) mode")
_COMPRESSIONS: Final = frozenset(
    ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma")
)
"""By Pillow's names. In JPEG and those of fax, libtiff fills damaged rows with any memory."""
_WHITE_IS_ZERO: Final = 0
_SEPARATE: Final = 2

_FOREIGN: Final = (
    *(OSError, SyntaxError, ValueError, RuntimeError, EOFError),
    *(TypeError, LookupError, ArithmeticError, AttributeError, MemoryError),
    struct.error,
)
"""What Pillow's plugins raise on damaged files."""

# One thread an image, because several images are decoded at once.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# What they say would go to standard error, from any thread; the reject has the reason.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger(TiffImagePlugin.__name__).setLevel(logging.CRITICAL)


def parse_tiff(data: bytes) -> ImageHeader | None:
    """Reads the header of a TIFF; None if it is none.

    Raises:
        ImageFaultError: if it is damaged, a camera's raw file, or of a kind that cannot be read.
    """
    if not data.startswith(_TIFF_STARTS):
        return None
    if data[8:10] == _CANON:
        raise _unsupported(_RAW)
    return _header(data, TIFF)


def parse_boxes(data: bytes) -> ImageHeader | None:
    """Reads the header of an AVIF, a HEIC or a JPEG 2000; None if it is none.

    Raises:
        ImageFaultError: if it is damaged, or of a kind that cannot be read.
    """
    if data.startswith(_JPEG_2000_STARTS):
        _check_codestream(data)
        return _header(data, JPEG_2000)
    if data[4:8] != b"ftyp":
        return None
    # ISO/IEC 14496-12: the size of the box, `ftyp`, the major brand, its version, other brands.
    size = min(int.from_bytes(data[:4], "big"), len(data), _MOST_BRANDS)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] not in (*_AVIF_BRANDS, *_HEIC_BRANDS, *_COMMON_BRANDS):
        return None
    named = brands if brands[0] in _COMMON_BRANDS else brands[:1]
    return _header(data, AVIF if any(brand in _AVIF_BRANDS for brand in named) else HEIC)


def decode_by_pillow(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decodes the first image of a file.

    Args:
        data: The file's bytes.
        header: Its header, from `parse_tiff` or `parse_boxes`.

    Returns:
        uint8 [height, width, channels], upright, channels 1, 3 (RGB) or 4 (RGBA) as
        `header.channels`. Grey samples of more than 8 bits are scaled and rounded; of those of
        colours Pillow takes the upper 8 bits.

    Raises:
        ImageFaultError: if it cannot be decoded.
    """
    try:
        with _open(data, header.format) as image:
            most, is_inverted = _range(image)
            # Pillow turns a TIFF as it loads it, and the others here.
            ImageOps.exif_transpose(image, in_place=True)
            if (image.height, image.width) != (header.height, header.width):
                raise ValueError(f"{image.width} x {image.height} pixels")
            if header.bit_depth > 8:
                return _of_8_bits(np.asarray(image), most, is_inverted)
            mode = {1: "L", 3: "RGB", 4: "RGBA"}[header.channels]
            upright = image.convert("LA") if image.mode == "La" else image
            pixels = np.asarray(upright.convert(mode))
            return pixels.reshape(header.height, header.width, header.channels)
    except _FOREIGN as error:
        raise _fault("decode", header.format, error) from error


def _check_codestream(data: bytes) -> None:
    """Raises for a JPEG 2000 of which Pillow would show something else than the image.

    OpenJPEG leaves out tiles that are missing, so that the end marker must be there, and Pillow
    makes white of more than 8 bits black, except in grey. ISO/IEC 15444-1, annexes A and I: boxes
    of size, type and content; 0 is a box up to the end of the file, 1 one whose size follows in 8
    bytes. The codestream begins with the markers SOC and SIZ, which has the number of components
    at 40 and three bytes for each, the first of them the number of bits less 1, and a sign.
    """
    at, start, end = 0, 0, len(data)
    while data.startswith(_JPEG_2000_STARTS[0]) and at + 16 <= len(data):
        size, kind, content = (
            int.from_bytes(data[at : at + 4], "big"),
            data[at + 4 : at + 8],
            at + 8,
        )
        if size == 1:
            size, content = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        if kind == b"jp2c":
            start, end = content, at + size if size else end
            break
        if size < 8:
            break
        at += size
    if data[end - 2 : end] != b"\xff\xd9":
        raise ImageFaultError("check", "truncated", "JPEG 2000 without its end")
    count = min(int.from_bytes(data[start + 40 : start + 42], "big"), _MOST_COMPONENTS)
    depths = [(byte & 0x7F) + 1 for byte in data[start + 42 : start + 42 + 3 * count : 3]]
    if len(depths) > 1 and max(depths) > 8:
        raise _unsupported(f"JPEG 2000 of {max(depths)} bits in colour; 8 bits can be read")


def _header(data: bytes, kind: str) -> ImageHeader:
    name = _NAMES[kind]
    check_directories(data)
    try:
        with _open(data, kind) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _refuse_kinds(image)
            mode, is_animated = image.mode, getattr(image, "is_animated", False)
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5 and kind != TIFF:
                width, height = height, width
    except ImageFaultError:
        raise
    except _FOREIGN as error:
        raise _fault("check", kind, error) from error
    known = {_GREY: (1, 8), _DEEP: (1, 16), _COLOUR: (3, 8), _CLEAR: (4, 8)}
    channels, depth = next((known[modes] for modes in known if mode in modes), (0, 0))
    if not channels:
        raise _unsupported(f"{name} with pixels of mode {mode}; 8 bits, or 16 of grey, can be read")
    frames = 2 if is_animated else 1
    return ImageHeader(kind, height, width, channels, depth, 1, frames, name)


def _refuse_kinds(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises for kinds of TIFF of which Pillow would show something else than the image.

    They are a camera's raw file, of which the first image is a small preview, compressions that
    hide damage, and planes of more than 8 bits, which Pillow mixes up.
    """
    tags = image.tag_v2
    is_preview = tags.get(_SUBFILE_TYPE, 0) & _IS_THUMBNAIL
    if _DNG_VERSION in tags or is_preview:
        raise _unsupported(_RAW)
    compression = image.info.get("compression")
    if compression not in _COMPRESSIONS:
        raise _unsupported(f"TIFF in the compression {compression}; use LZW")
    bits = tags.get(_BITS_PER_SAMPLE, (1,))
    if tags.get(_PLANES) == _SEPARATE and len(bits) > 1 and max(bits) > 8:
        raise _unsupported("TIFF of 16 bits in separate planes; 8 bits can be read")


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    """Opens a file without decoding it; unlike `Image.open`, faults keep their messages."""
    openers: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
        TIFF: TiffImagePlugin.TiffImageFile,
        AVIF: AvifImagePlugin.AvifImageFile,
        JPEG_2000: Jpeg2KImagePlugin.Jpeg2KImageFile,
    }
    opener = openers.get(kind) or _heic_opener()
    if opener is None:
        raise _unsupported("HEIC; pip install 'vaeline[heif]' makes it readable")
    return opener(io.BytesIO(data))


@cache
def _heic_opener() -> Callable[[io.BytesIO], ImageFile.ImageFile] | None:
    """Returns Pillow's plugin for HEIC; None without the package of the extra `heif`."""
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        return None
    plugin.options.DECODE_THREADS = 1
    # What a file holds besides its image is not needed, and may be damaged.
    plugin.options.THUMBNAILS = False
    plugin.options.DEPTH_IMAGES = plugin.options.AUX_IMAGES = False
    opener: Callable[[io.BytesIO], ImageFile.ImageFile] = plugin.HeifImageFile
    return opener


def _range(image: ImageFile.ImageFile) -> tuple[int, bool]:
    """Returns the largest sample of a grey image of more than 8 bits, and whether it is black."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 65535, False
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
    return (1 << bits) - 1, image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _of_8_bits(samples: np.ndarray, most: int, is_inverted: bool) -> np.ndarray:
    """Scales grey samples of 0 to `most` to 8 bits, rounded."""
    grey = np.minimum(samples.astype(np.uint32), most)
    if is_inverted:
        grey = most - grey
    return ((grey * 255 + most // 2) // most).astype(np.uint8)[..., None]


def _unsupported(detail: str) -> ImageFaultError:
    return ImageFaultError("check", "unsupported_format", detail)


def _fault(stage: str, kind: str, error: BaseException) -> ImageFaultError:
    """Returns the fault of a file that Pillow refuses."""
    text = " ".join(str(error).split())
    if _UNKNOWN_MODE.search(text) or isinstance(error.__cause__, KeyError):
        return _unsupported(f"{_NAMES[kind]} of a kind that cannot be read; 8-bit images can")
    lower = text.lower()
    is_cut = any(word in lower for word in ("truncat", "not enough", "end of", "eof", "too short"))
    return ImageFaultError(
        stage, "truncated" if is_cut else "corrupt", f"{_NAMES[kind]} does not decode: {text}"
    )
