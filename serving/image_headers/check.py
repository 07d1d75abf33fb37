"""Rejects image files by their headers, before any pixel is decoded.

`serving/input_validation.py` calls it in the signatures that take files, so that the served graph
rejects files that would exhaust memory. `components/image_checks` applies the same rules outside a
graph.
"""

from typing import Final, NamedTuple

import tensorflow as tf

from serving.image_headers.fields import as_signed, big, little, marked, numbers, take
from serving.image_headers.gif import Screen, read_gif
from serving.image_headers.jpeg import read_jpeg_frames
from serving.image_headers.png import FIRST_CHUNK, png_orientations


class Headers(NamedTuple):
    """The contents of the headers of a batch; every tensor is `[batch]`.

    Attributes:
        height: int64, rows as stored, pixels; 0 if the header has none.
        width: int64, columns as stored, pixels.
        orientation: int32, EXIF orientation, 1 to 8; 1 is upright.
        is_deep: bool, whether the file is a PNG with 16 bits per sample.
        fault: int32, an index into `FAULTS`; 0 is a valid header.
    """

    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    is_deep: tf.Tensor
    fault: tf.Tensor


FAULTS: Final = (
    "valid",
    "empty, 0 bytes",
    "not an image: neither JPEG, PNG, GIF nor BMP by its content",
    "truncated: the file ends before the image does",
    "corrupt: its header makes no sense",
    "too many pixels",
    "a kind of JPEG that cannot be read: 8 bits, baseline or progressive can; make it a PNG",
    "a kind of BMP that cannot be read: 24 and 32 bits without compression can; make it a PNG",
    "a GIF with transparency or frames of several sizes, which cannot be read; make it a PNG",
    "WebP, which cannot be read; make it a PNG or a JPEG",
    "HEIC, which cannot be read; make it a JPEG",
    "AVIF, which cannot be read; make it a PNG or a JPEG",
    "TIFF, which cannot be read; make it a PNG",
)
"""Faults of a file, in the words of the request's error."""

(
    _SOUND,
    _EMPTY,
    _NO_IMAGE,
    _TRUNCATED,
    _CORRUPT,
    _TOO_LARGE,
    _JPEG_KIND,
    _BMP_KIND,
    _CLEAR,
    _WEBP,
    _HEIC,
    _AVIF,
    _TIFF,
) = range(13)
_HEAD_BYTES: Final = FIRST_CHUNK + 8
_TAIL_BYTES: Final = 12
_MOST_NAMED: Final = 8

# What phones and scanners write, so that the error names the format.
_OTHER_FORMATS: Final = (
    (4, b"ftyphei", _HEIC),
    (4, b"ftypmif1", _HEIC),
    (4, b"ftypavi", _AVIF),
    (0, b"II*\0", _TIFF),
    (0, b"MM\0*", _TIFF),
)
_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_END_OF_PNG: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
"""The last chunk of a PNG with its checksum."""
_LAST_CHUNK: Final = b"IEND"
_END_OF_JPEG: Final = b"\xff\xd9"


def read_headers(encoded: tf.Tensor, max_pixels: int) -> Headers:
    """Reads the headers of a batch of image files.

    Args:
        encoded: string `[batch]`.
        max_pixels: Height times width above which an image is rejected; all frames of a GIF count
            together.

    Returns:
        The contents of the headers, with their faults.
    """
    size = tf.strings.length(encoded, name="sizes")
    head = take(encoded, tf.zeros_like(size), _HEAD_BYTES)
    is_png, is_jpeg, is_old_gif, is_new_gif, is_bmp, is_webp, has_size, has_pixels, *are_others = (
        marked(
            head,
            {0: _PNG},
            {0: _JPEG},
            {0: b"GIF87a"},
            {0: b"GIF89a"},
            {0: b"BM"},
            {0: b"RIFF", 8: b"WEBP"},
            {12: b"IHDR"},
            {FIRST_CHUNK + 4: b"IDAT"},
            *({at: mark} for at, mark, _ in _OTHER_FORMATS),
        )
    )
    is_gif = is_old_gif | is_new_gif
    png_height, png_width, png_depth, gif_height, gif_width = numbers(
        head, big(20, 4), big(16, 4), big(24, 1), little(8, 2), little(6, 2)
    )
    bmp_height, bmp_width, bmp_header, bmp_depth, bmp_packing = numbers(
        head, little(22, 4), little(18, 4), little(14, 4), little(28, 2), little(30, 4)
    )

    jpeg = read_jpeg_frames(encoded, is_jpeg)
    none = tf.zeros(tf.shape(size), tf.int64)
    height, width = tf.where(is_jpeg, jpeg.height, none), tf.where(is_jpeg, jpeg.width, none)
    height = tf.where(is_png, png_height, height)
    width = tf.where(is_png, png_width, width)
    height = tf.where(is_gif, gif_height, height)
    width = tf.where(is_gif, gif_width, width)
    # A negative height means that rows are stored from top to bottom.
    height = tf.where(is_bmp, tf.abs(as_signed(bmp_height)), height)
    width = tf.where(is_bmp, as_signed(bmp_width), width)
    screens = tf.cond(
        tf.reduce_any(is_gif),
        lambda: _screens(encoded, is_gif),
        lambda: Screen(none, tf.ones_like(is_gif), tf.zeros_like(is_gif)),
    )

    is_odd_bmp = (bmp_header < 40) | (bmp_packing != 0) | (bmp_depth != 24) & (bmp_depth != 32)
    # Sides are below 2**32, so their product may exceed 2**63, but a quotient cannot.
    is_too_large = height > max_pixels // tf.maximum(width, 1)
    is_other = ~(is_png | is_jpeg | is_gif | is_bmp)
    faults = (
        (_EMPTY, tf.equal(size, 0)),
        (_WEBP, is_webp),
        *(
            (code, is_other & found)
            for (_, _, code), found in zip(_OTHER_FORMATS, are_others, strict=True)
        ),
        (_NO_IMAGE, is_other),
        (_TRUNCATED, is_jpeg & jpeg.is_cut | is_png & (size < FIRST_CHUNK) | is_bmp & (size < 34)),
        (_CORRUPT, is_jpeg & jpeg.is_damaged | is_png & ~has_size),
        (_JPEG_KIND, is_jpeg & jpeg.is_other_kind),
        (_BMP_KIND, is_bmp & is_odd_bmp),
        (_CORRUPT, (height <= 0) | (width <= 0)),
        (_TOO_LARGE, is_too_large | (screens.pixels > max_pixels)),
        (_CLEAR, screens.is_clear),
        (_TRUNCATED, ~screens.is_whole | ~_has_end(encoded, is_png, is_jpeg)),
        (_SOUND, tf.ones_like(is_png)),
    )
    codes, applies = zip(*faults, strict=True)
    # The first fault that applies is reported.
    places = tf.where(tf.stack(applies, axis=1), tf.range(len(codes)), len(codes))
    fault = tf.gather(tf.constant(codes, tf.int32), tf.reduce_min(places, axis=1))

    has_extras = is_png & ~has_pixels
    orientation = tf.cond(
        tf.reduce_any(has_extras),
        lambda: tf.where(is_jpeg, jpeg.orientation, png_orientations(encoded, has_extras)),
        lambda: jpeg.orientation,
    )
    return Headers(height, width, orientation, is_png & tf.equal(png_depth, 16), fault)


def require_sound(headers: Headers, max_pixels: int) -> tf.Operation:
    """Fails if a header has a fault.

    Args:
        headers: Headers of a batch.
        max_pixels: The limit, for the message.

    Returns:
        The check, for use as a control dependency. It raises InvalidArgumentError with a message
        that names bad images by their 0-based position in the batch, and the fault of each.
    """

    def fail() -> tf.Operation:
        bad = tf.cast(tf.where(headers.fault > 0)[:, 0], tf.int32)
        fault = tf.gather(headers.fault, bad[:_MOST_NAMED])
        named = [tf.gather(fact, bad[:_MOST_NAMED]) for fact in (headers.width, headers.height)]
        width, height = (tf.strings.as_string(side) for side in named)
        sides = tf.strings.join([": ", width, " x ", height, f", the limit is {max_pixels}"])
        lines = tf.strings.join(
            [
                "image ",
                tf.strings.as_string(bad[:_MOST_NAMED]),
                ": ",
                tf.gather(tf.constant(FAULTS), fault),
                tf.where(tf.equal(fault, _TOO_LARGE), sides, ""),
            ]
        )
        counts = [tf.strings.as_string(tf.size(part)) for part in (bad, headers.fault)]
        message = [counts[0], " of ", counts[1], " images refused; "]
        return tf.debugging.Assert(
            False, [tf.strings.join([*message, tf.strings.reduce_join(lines, separator="; ")])]
        )

    return tf.cond(tf.reduce_all(tf.equal(headers.fault, _SOUND)), tf.no_op, fail)


def _has_end(encoded: tf.Tensor, is_png: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """Tells which files have their end marker; true for formats without one."""
    size = tf.strings.length(encoded)
    tail = take(encoded, size - _TAIL_BYTES, _TAIL_BYTES)
    ends_png, ends_jpeg = marked(
        tail, {0: _END_OF_PNG}, {_TAIL_BYTES - len(_END_OF_JPEG): _END_OF_JPEG}
    )
    ends = tf.where(is_jpeg, ends_jpeg, ends_png | ~is_png)

    def search() -> tf.Tensor:
        # Either data follow the image, which viewers tolerate, or the end is missing.
        rows = tf.where(~ends)[:, 0]
        found = tf.map_fn(_holds_end, tf.gather(encoded, rows), fn_output_signature=tf.bool)
        return tf.tensor_scatter_nd_update(ends, rows[:, tf.newaxis], found)

    return tf.cond(tf.reduce_all(ends), lambda: ends, search)


def _holds_end(content: tf.Tensor) -> tf.Tensor:
    data = tf.io.decode_raw(content, tf.uint8)

    def holds(mark: bytes) -> tf.Tensor:
        places = tf.maximum(tf.size(data) - len(mark) + 1, 0)
        hits = [tf.equal(data[at : at + places], value) for at, value in enumerate(mark)]
        return tf.reduce_any(tf.reduce_all(tf.stack(hits), axis=0))

    return tf.cond(tf.io.is_jpeg(content), lambda: holds(_END_OF_JPEG), lambda: holds(_LAST_CHUNK))


def _screens(encoded: tf.Tensor, is_gif: tf.Tensor) -> Screen:
    rows = tf.where(is_gif)[:, 0]
    signature = Screen(*(tf.TensorSpec([], kind) for kind in (tf.int64, tf.bool, tf.bool)))
    found = tf.map_fn(read_gif, tf.gather(encoded, rows), fn_output_signature=signature)
    places = rows[:, tf.newaxis]
    none = Screen(tf.zeros(tf.shape(is_gif), tf.int64), tf.ones_like(is_gif), tf.zeros_like(is_gif))
    return Screen(
        *(tf.tensor_scatter_nd_update(a, places, b) for a, b in zip(none, found, strict=True))
    )
