"""Every kind of image is accepted, converted or refused with the right reason."""

import io
import pickle
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from components.image_checks import (
    REASONS,
    ImageFaultError,
    ImageHeader,
    check,
    decode,
    jpeg,
    to_servable,
    verify,
)
from components.image_checks.exif import orientation_of
from components.image_sources.config import LimitsConfig
from tests import archives

LIMITS = LimitsConfig(max_bytes=100_000)


def header_of(data: bytes) -> ImageHeader:
    header = check(data, LIMITS)
    assert isinstance(header, ImageHeader)
    return header


def reason_of(data: bytes) -> str:
    """The reason that the checks give, empty for a usable image."""
    header = check(data, LIMITS)
    if isinstance(header, ImageFaultError):
        return header.reason
    try:
        verify(data, header)
    except ImageFaultError as fault:
        return fault.reason
    return ""


@pytest.mark.parametrize("name", sorted(archives.defects()))
def test_defect_gets_its_reason(name: str) -> None:
    data, reason = archives.defects()[name]
    assert reason in REASONS
    assert reason_of(data) == reason


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"IHDR", "corrupt"),
        (b"PLTE", "corrupt"),
        (b"IDAT", "corrupt"),
        (b"IEND", "corrupt"),
        (b"tEXt", ""),
    ],
)
def test_checksums_of_critical_png_chunks_count(kind: bytes, reason: str) -> None:
    # OpenCV 5 shows such images; the PNG library in TensorFlow refuses them, but for the text.
    image = Image.fromarray(archives.pixels(1, channels=3)).quantize(16)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Title", "a picture")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=notes)
    data = bytearray(buffer.getvalue())
    assert reason_of(bytes(data)) == ""
    at = data.index(kind)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 1
    assert reason_of(bytes(data)) == reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (archives.png(), ImageHeader("png", 9, 12, 1)),
        (archives.png(channels=3), ImageHeader("png", 9, 12, 3)),
        (archives.png(channels=4), ImageHeader("png", 9, 12, 4)),
        (archives.png16(), ImageHeader("png", 9, 12, 1, 16, convert="16-bit PNG")),
        (archives.jpeg(), ImageHeader("jpeg", 24, 40, 3)),
        (archives.jpeg(channels=1), ImageHeader("jpeg", 24, 40, 1)),
        (archives.cmyk_jpeg(), ImageHeader("jpeg", 24, 40, 3, convert="inverted CMYK JPEG")),
        (
            archives.turned_jpeg(6),
            ImageHeader("jpeg", 24, 40, 3, orientation=6, convert="turned by EXIF"),
        ),
        (archives.gif(), ImageHeader("gif", 9, 12, 3, convert="GIF")),
        (archives.gif(3), ImageHeader("gif", 9, 12, 3, frames=2, convert="GIF")),
        (archives.webp(), ImageHeader("webp", 9, 12, 3, convert="WebP")),
        (archives.bmp(), ImageHeader("bmp", 9, 12, 3, convert="BMP")),
        (archives.tiff(), ImageHeader("tiff", 9, 12, 3, convert="TIFF")),
        (archives.avif(), ImageHeader("avif", 24, 40, 3, convert="AVIF")),
        (archives.jpeg_2000(), ImageHeader("jp2", 9, 12, 3, convert="JPEG 2000")),
    ],
    ids=lambda value: value.format if isinstance(value, ImageHeader) else "",
)
def test_header_and_conversion(data: bytes, expected: ImageHeader) -> None:
    header = header_of(data)
    assert header == expected
    verify(data, header)
    served = to_servable(data, header)
    assert (served is data) == (not header.convert)
    assert header_of(served).convert == ""
    np.testing.assert_array_equal(decode(served, header_of(served)), decode(data, header))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decoded_pixels_are_exact(channels: int) -> None:
    data = archives.png(5, channels=channels)
    np.testing.assert_array_equal(
        decode(data, header_of(data)), archives.pixels(5, channels=channels)
    )


def test_16_bits_are_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 65535, 65406]], np.uint16)
    data = cv2.imencode(".png", values)[1].tobytes()
    assert decode(data, header_of(data)).ravel().tolist() == [0, 0, 1, 1, 255, 254]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_viewers_turn_it(orientation: int) -> None:
    data = archives.turned_jpeg(orientation)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = decode(data, header_of(data))
    assert found.shape == expected.shape
    # Two JPEG decoders may differ by rounding.
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 2


def test_palette_and_transparency() -> None:
    grey_alpha = io.BytesIO()
    Image.fromarray(archives.pixels(1, channels=2)).save(grey_alpha, "PNG")
    header = header_of(grey_alpha.getvalue())
    assert (header.channels, header.convert) == (4, "grey PNG with alpha")
    palette = io.BytesIO()
    Image.fromarray(archives.pixels(1, channels=3)).quantize(16).save(palette, "PNG")
    header = header_of(palette.getvalue())
    assert (header.channels, header.convert) == (3, "")
    assert decode(palette.getvalue(), header).shape == (9, 12, 3)


def test_limits() -> None:
    data = archives.png(channels=3)
    for limits, reason in (
        (LimitsConfig(max_bytes=len(data) - 1), "too_large"),
        (LimitsConfig(max_pixels=9 * 12 - 1), "too_many_pixels"),
    ):
        fault = check(data, limits)
        assert isinstance(fault, ImageFaultError)
        assert fault.reason == reason
    assert isinstance(check(data, LimitsConfig(max_bytes=len(data), max_pixels=108)), ImageHeader)


@pytest.mark.parametrize(
    "make",
    [
        *(archives.png, archives.jpeg, archives.webp, archives.bmp, archives.gif),
        *(archives.tiff, archives.avif, archives.jpeg_2000),
    ],
)
def test_every_cut_is_found(make: type) -> None:
    data = make()
    # An image format may end in bytes that nobody needs; all cuts before them are found.
    slack = {archives.gif: 2}.get(make, 0)
    for length in range(len(data) - slack):
        assert reason_of(data[:length]) in ("empty", "truncated", "corrupt", "not_an_image")


BITFIELDS = struct.pack(
    "<2sIHHI IiiHHIIiiII III 4x", b"BM", 70, 0, 0, 66, 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0, 1, 2, 4
)
CUT_TABLE = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"," + bytes(8) + b"\x81\0\0"


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (BITFIELDS, "unsupported_format", "1 x 1 bmp: Unsupported BMP bitfields layout"),
        (archives.bmp()[:40], "truncated", "12 x 9 bmp: Truncated File Read"),
        (CUT_TABLE, "corrupt", "1 x 1 gif does not decode"),
    ],
)
def test_what_pillow_refuses_is_told_in_the_same_words_each_time(
    data: bytes, reason: str, detail: str
) -> None:
    with pytest.raises(ImageFaultError) as caught:
        decode(data, header_of(data))
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


SEEDS = [
    archives.png(1, 3, 4, 3),
    archives.jpeg(1, 8, 8),
    archives.gif(2),
    archives.webp(),
    archives.bmp(),
    archives.turned_jpeg(3),
    archives.tiff(),
    archives.tiff(compression="tiff_lzw"),
    archives.avif(),
    archives.jpeg_2000(),
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), max_size=6),
)
def test_damage_never_escapes(data: bytes, damage: list[tuple[int, bytes]]) -> None:
    """Whatever bytes change: an image or a known reason, and what is accepted can be served."""
    hurt = bytearray(data)
    for at, content in damage:
        start = at % len(hurt)
        hurt[start : start + len(content)] = content
    reason = reason_of(bytes(hurt))
    assert reason == "" or reason in REASONS
    if not reason:
        header = header_of(bytes(hurt))
        pixels = decode(bytes(hurt), header)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == header.channels
        assert check(to_servable(bytes(hurt), header), LIMITS)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_fault(data: bytes) -> None:
    assert reason_of(data) in REASONS


@given(st.binary(max_size=64))
def test_exif_of_any_bytes(data: bytes) -> None:
    assert 1 <= orientation_of(b"MM\0*" + data) <= 8


def test_decoding_needs_no_tensorflow() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import components.image_checks, components.image_sources.sources,"
        " components.image_sources.zip, components.image_sources.tfrecord;"
        "sys.exit('tensorflow' in sys.modules or 'apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


JUNK = [b"\0" * 7, b"junk", b"\xff\x00", b"\x00\xff\xff\xff", b"\x01\x02"]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xda", b"\xff\xc0", b"\xff\xc4"])
def test_bytes_between_the_segments_of_a_jpeg_are_skipped(marker: bytes, junk: bytes) -> None:
    plain = archives.jpeg(1)
    at = plain.index(marker)
    data = plain[:at] + junk + plain[at:]
    header = check(data, LimitsConfig())
    assert isinstance(header, ImageHeader), header
    assert header.convert == "JPEG with bytes between its segments"
    stored = to_servable(data, header)
    expected = decode(plain, check(plain, LimitsConfig()))  # type: ignore[arg-type]
    found = decode(stored, check(stored, LimitsConfig()))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("factors", "valid"),
    [
        ((0x11, 0x11, 0x11), True),
        ((0x22, 0x11, 0x11), True),
        ((0x21, 0x11, 0x11), True),
        ((0x12, 0x11, 0x11), True),
        ((0x41, 0x11, 0x11), True),
        ((0x31, 0x21, 0x11), False),
        ((0x21, 0x31, 0x11), False),
        ((0x32, 0x12, 0x22), False),
        ((0x01, 0x11, 0x11), False),
        ((0x51, 0x11, 0x11), False),
        ((0x44, 0x11, 0x11), False),
    ],
)
def test_sampling_factors_that_libjpeg_does_not_implement(
    factors: tuple[int, int, int], valid: bool
) -> None:
    data = bytearray(archives.jpeg(1))
    frame = data.index(b"\xff\xc0")
    data[frame + 11 : frame + 20 : 3] = bytes(factors)
    header = check(bytes(data), LimitsConfig())
    assert isinstance(header, ImageHeader) == valid, header


def _behind_the_scan(marker: int, content: bytes) -> bytes:
    plain = archives.jpeg(1)
    segment = bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
    return plain[:-2] + segment + plain[-2:]


@pytest.mark.parametrize(
    ("marker", "reason"),
    [(0xE5, ""), (0xFE, ""), (0xDC, ""), (0xC4, "corrupt"), (0xDB, "corrupt"), (0xC0, "corrupt")],
)
def test_segments_behind_the_only_scan(marker: int, reason: str) -> None:
    # OpenCV stops after the scan; TensorFlow reads to the end and fails there.
    assert reason_of(_behind_the_scan(marker, bytes(20))) == reason


def test_a_second_scan_of_everything_is_refused() -> None:
    plain = archives.jpeg(1)
    scan = plain[plain.index(b"\xff\xda") : -2]
    assert reason_of(plain[:-2] + scan + plain[-2:]) == "corrupt"


def test_a_partial_progressive_image_is_stored_as_it_was_decoded() -> None:
    sink = io.BytesIO()
    smooth = cv2.GaussianBlur(archives.pixels(1, 24, 40, 3), (5, 5), 2)
    Image.fromarray(smooth).save(sink, "JPEG", progressive=True)
    whole = sink.getvalue()
    assert header_of(whole).convert == ""
    last_scan = whole.rindex(b"\xff\xda")
    header = header_of(whole[:last_scan] + b"\xff\xd9")
    assert header.convert == "partial progressive JPEG"


def test_of_an_animated_png_the_default_image_counts() -> None:
    frames = [Image.fromarray(archives.pixels(seed, 9, 12, 3)) for seed in range(3)]
    sink = io.BytesIO()
    frames[0].save(sink, "PNG", save_all=True, append_images=frames[1:], default_image=True)
    animated = sink.getvalue()
    # An animation without a frame, as a cut file has it.
    plain = archives.png(0, channels=3)
    control = b"acTL" + bytes(8)
    chunk = b"\0\0\0\x08" + control + zlib.crc32(control).to_bytes(4, "big")
    empty = plain[:33] + chunk + plain[33:]
    for data in (animated, empty):
        header = header_of(data)
        assert header.convert == "animated PNG"
        np.testing.assert_array_equal(decode(data, header), archives.pixels(0, channels=3))


@pytest.mark.parametrize("is_marked", [True, False])
def test_cmyk_is_inverted_with_the_marker_of_adobe_only(is_marked: bool) -> None:
    inks = np.full((24, 40, 4), 60, np.uint8)
    sink = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(sink, "JPEG", quality=100)
    data = sink.getvalue()
    if not is_marked:
        at = data.index(b"\xff\xee")
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    # Pillow writes 255 - ink, with the marker.
    light = 255 - 60 if is_marked else 60
    pixels = decode(data, header_of(data))
    assert np.abs(pixels.astype(int) - light * light // 255).max() <= 2


def test_orientation_counts_in_its_place_only() -> None:
    turned = archives.turned_jpeg(6)
    at = turned.index(b"\xff\xe1")
    end = at + 2 + int.from_bytes(turned[at + 2 : at + 4], "big")
    rest = turned[:at] + turned[end:]
    scan = rest.index(b"\xff\xda")
    assert header_of(turned).orientation == 6
    assert header_of(rest[:scan] + turned[at:end] + rest[scan:]).orientation == 1


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([0xFF, 0xFF, 0x00, 0xD3, 0x41, 0xD9]), max_size=40).map(bytes),
    window=st.integers(2, 9),
)
def test_the_end_of_a_scan_is_found_across_windows(data: bytes, window: int) -> None:
    expected = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])").search(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "_WINDOW", window)
        if expected is None:
            with pytest.raises(ImageFaultError, match="without an end marker"):
                jpeg._find_marker(data, 0)
        else:
            assert jpeg._find_marker(data, 0) == expected.start(1)


@pytest.mark.parametrize(
    ("start", "detail"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported_format: camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "unsupported_format: camera raw"),
        (b"\xff\x0a" + bytes(9), "unsupported_format: JPEG XL"),
        (b"P5 12 9 255 ", "unsupported_format: PNM"),
        (bytes(128) + b"DICM", "unsupported_format: DICOM"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_an_image: a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404", "not_an_image: a web page"),
        (b"<HTML><body>403", "not_an_image: a web page"),
    ],
)
def test_what_people_meet_instead_of_an_image_is_named(start: bytes, detail: str) -> None:
    assert str(check(start + bytes(200), LIMITS)).startswith(detail)


def test_a_pickle_is_named() -> None:
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        content = pickle.dumps({"data": [0] * 99}, protocol)
        assert str(check(content, LIMITS)).startswith("not_an_image: a Python pickle, as of CIFAR")


def test_tags_of_a_jpeg_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags that share one large value would fill the memory, see `tiff_directories.py`."""
    plain = archives.cmyk_jpeg()
    tags = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08" + bytes(18)
    pictures = b"\xff\xe2\0\x1eMPF\0MM\0*\0\0\0\x08" + bytes(16)
    data = plain[:2] + tags + pictures + plain[2:]

    def load(*_: object) -> None:
        raise AssertionError("Pillow reads tags")

    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", load)
    np.testing.assert_array_equal(decode(data, header_of(data)), decode(plain, header_of(plain)))
