"""TIFF, AVIF and JPEG 2000: all kinds that people have, as viewers show them."""

import base64
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.image_checks import (
    ImageFaultError,
    ImageHeader,
    check,
    decode,
    model_pixels,
    pillow_formats,
    to_servable,
    verify,
)
from components.image_sources.config import LimitsConfig
from tests import archives
from trainer.config import ImageConfig

COLOUR = Image.fromarray(archives.pixels(1, 10, 14, 3))
GREY = COLOUR.convert("L")
DEEP = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (10, 14), np.uint16))
TURNED = Image.Exif()
TURNED[0x0112] = 6
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0005AZDn*}000000000XXk=`10000000000aA{+7000000000"
    "00000000000G-+&aV*mgE07O6l0ssL300001*8l+k00000002P%0ssI200I~Q0RR9100000Bme*aIB98aW&i"
    "*H00062000$fZf0cy000000RRAKc4ILB0000LX>Mj^0ssI300IC2MR;ju000004sdC7Z2$lO00031008o7aB"
    "^?}007cyaAR)(004Dpc4I>U18@KU0FVFx0000U@BsY%`1k+-4+CHT0RR|40Sp2E{{wIU00RJ!0009300RIXx"
    "&lC90096gLID8-Z~y=U0FVFx0{{R603M(qfd!W8uA1iHA)vs3000bt00093gkk^z00u+>!E?ch0000KX>)L8"
    "000000000$0000$0000eV{Bn?0000e000010000O00001|NsB!00002|NsBk000020000GaA|mH000000|*E"
    "R00009X>xCL0{{R37-?{AVE_OC000000RRC7fdT}Bg#Z8m8fkK6W&i*H000004r63<V*mmG0RRC2003=mWMO"
    "mw002EG0k0V$pd4uKBlBPXqZYvwdr>mjY!Mp$E^aLC3DT~_B<=Q{G+@wBwl-hRZ`<U6tFVa9rWl;Em$W0m00"
    "006MR;ju002!*04e|g00;m90TKWM0000100sa600000"
)
"""40 columns and 24 rows as stored, the left half black, turned by 90 degrees to the right."""
TIFF_TAGS = {"type": 254, "photometric": 262, "orientation": 274, "dng": 50706}


def saved(image: Image.Image, image_format: str = "TIFF", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, image_format, **options)
    return sink.getvalue()


def tagged(image: Image.Image, **tags: Any) -> bytes:
    return saved(image, tiffinfo={TIFF_TAGS[name]: value for name, value in tags.items()})


def planes() -> bytes:
    """A TIFF of 2 x 2 pixels with 16 bits a colour, of which each has a plane of its own."""
    tags = {256: [2], 257: [2], 258: [16] * 3, 259: [1], 262: [2], 273: [200, 208, 216],
            277: [3], 278: [2], 279: [8] * 3, 284: [2]}  # fmt: skip
    entries, more = b"", b""
    behind = 8 + 2 + 12 * len(tags) + 4
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            more, packed = more + packed, struct.pack("<I", behind + len(more))
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more
    return head.ljust(200, b"\0") + bytes(24)


def read(data: bytes) -> tuple[ImageHeader, np.ndarray]:
    header = check(data, LimitsConfig())
    assert isinstance(header, ImageHeader), header
    verify(data, header)
    return header, decode(data, header)


def fault_of(data: bytes) -> ImageFaultError:
    fault = check(data, LimitsConfig())
    assert isinstance(fault, ImageFaultError)
    return fault


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", None])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_kinds_of_tiff(mode: str, compression: str | None) -> None:
    image = COLOUR.convert("RGBA").convert("LA") if mode == "LA" else COLOUR.convert(mode)
    header, pixels = read(saved(image, compression=compression))
    shown = {"1": "L", "L": "L", "LA": "RGBA", "RGBA": "RGBA"}.get(mode, "RGB")
    expected = np.asarray(image.convert(shown)).reshape(10, 14, -1)
    assert header == ImageHeader("tiff", 10, 14, expected.shape[2], convert="TIFF")
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    "data",
    [
        saved(COLOUR, big_tiff=True),
        saved(COLOUR, "JPEG2000"),
        saved(COLOUR, "JPEG2000", no_jp2=True),
        saved(COLOUR, "AVIF", quality=100, subsampling="4:4:4"),
    ],
    ids=["big tiff", "jp2", "j2k", "avif"],
)
def test_colours(data: bytes) -> None:
    _, pixels = read(data)
    difference = np.abs(pixels.astype(int) - np.asarray(COLOUR)).max()
    assert difference <= 4, "the best AVIF is not quite lossless"


def test_inks_and_transparency() -> None:
    assert read(saved(COLOUR.convert("CMYK")))[1].shape == (10, 14, 3)
    clear = COLOUR.convert("RGBA")
    clear.putalpha(128)
    assert read(saved(clear, "AVIF"))[0].channels == 4


def test_16_bits_are_rounded_to_8() -> None:
    expected = np.round(np.asarray(DEEP) / 257).astype(np.uint8)[..., None]
    for data in (saved(DEEP), saved(DEEP, compression="tiff_lzw"), saved(DEEP, "JPEG2000")):
        header, pixels = read(data)
        assert (header.channels, header.bit_depth) == (1, 16)
        np.testing.assert_array_equal(pixels, expected)
    _, inverted = read(tagged(DEEP, photometric=0))
    assert np.abs(inverted.astype(int) + expected - 255).max() <= 1


def test_turned_images_are_upright() -> None:
    upright = np.asarray(ImageOps.exif_transpose(_with(COLOUR, TURNED)))
    header, pixels = read(tagged(COLOUR, orientation=6))
    assert (header.height, header.width, header.orientation) == (14, 10, 1)
    np.testing.assert_array_equal(pixels, upright)
    header, pixels = read(saved(COLOUR, "AVIF", exif=TURNED, quality=100, subsampling="4:4:4"))
    assert header.upright_size == (14, 10)
    assert np.abs(pixels.astype(int) - upright).max() <= 4


def _with(image: Image.Image, exif: Image.Exif) -> Image.Image:
    copy = image.copy()
    copy.getexif().update(exif)
    return copy


def test_heic() -> None:
    pytest.importorskip("pillow_heif", reason="HEIC needs the extra `heif`")
    header, pixels = read(HEIC)
    assert header == ImageHeader("heic", 40, 24, 3, convert="HEIC")
    assert pixels[:18].max() < 20 < pixels[22:, :, 0].min()
    for length in range(12, len(HEIC)):
        fault = check(HEIC[:length], LimitsConfig())
        if isinstance(fault, ImageHeader):
            with pytest.raises(ImageFaultError):
                verify(HEIC[:length], fault)


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_formats, "_heic_opener", lambda: None)
    fault = fault_of(HEIC)
    assert fault.reason == "unsupported_format"
    assert "pip install 'vaeline[heif]'" in fault.detail


def test_the_first_of_several_images_counts() -> None:
    data = saved(COLOUR, save_all=True, append_images=[COLOUR.rotate(180)])
    header, pixels = read(data)
    assert header.frames == 2
    np.testing.assert_array_equal(pixels, np.asarray(COLOUR))


def test_what_is_served_has_the_same_pixels() -> None:
    image = ImageConfig(height=6, width=6, channels=3)
    for data in (archives.tiff(), archives.avif(), archives.jpeg_2000(), tagged(GREY)):
        header, pixels = read(data)
        stored = to_servable(data, header, image)
        stored_header, stored_pixels = read(stored)
        assert stored_header.format == "png"
        np.testing.assert_array_equal(stored_pixels, pixels)
        np.testing.assert_array_equal(
            model_pixels(data, header, image), model_pixels(stored, stored_header, image)
        )


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (saved(Image.fromarray(np.ones((4, 4), np.float32))), "TIFF with pixels of mode F"),
        (saved(Image.fromarray(np.ones((4, 4), np.int32))), "TIFF with pixels of mode I"),
        (saved(GREY.convert("1"), compression="group4"), "TIFF in the compression group4"),
        (saved(COLOUR, compression="jpeg"), "TIFF in the compression jpeg; use LZW"),
        (planes(), "TIFF of 16 bits in separate planes"),
        (tagged(GREY, type=1), "camera raw"),
        (tagged(GREY, dng=b"\1\4\0\0"), "camera raw"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "camera raw"),
    ],
    ids=["floats", "32 bits", "fax", "jpeg", "planes", "preview", "dng", "cr2"],
)
def test_what_cannot_be_read_is_named(data: bytes, detail: str) -> None:
    fault = fault_of(data)
    assert fault.reason == "unsupported_format"
    assert fault.detail.startswith(detail)


def test_other_containers_are_not_taken_for_these() -> None:
    brands = b"\0\0\0\x18ftyp%s\0\0\0\0%s" + bytes(40)
    assert fault_of(brands % (b"heic", b"mif1heic")).detail.startswith("HEIC")
    assert fault_of(brands % (b"mif1", b"heicmiaf")).detail.startswith("HEIC")
    assert fault_of(brands % (b"mif1", b"avifmiaf")).detail.startswith("AVIF does not decode")
    assert fault_of(brands % (b"mp42", b"isommp42")).reason == "not_an_image"
    assert fault_of(b"IIU\0" + bytes(40)).detail == "camera raw"


def test_limits_hold_before_decoding() -> None:
    data = saved(Image.new("L", (6000, 6000)), compression="tiff_lzw")
    for limits, reason in (
        (LimitsConfig(max_pixels=8_000_000), "too_many_pixels"),
        (LimitsConfig(max_ratio=100), "too_compressed"),
    ):
        fault = check(data, limits)
        assert isinstance(fault, ImageFaultError)
        assert fault.reason == reason


def test_a_codestream_without_its_last_tiles_is_cut() -> None:
    """OpenJPEG shows grey for tiles that are missing."""
    for options in ({}, {"no_jp2": True}):
        data = saved(COLOUR, "JPEG2000", tile_size=(5, 5), **options)
        tiles = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\x90"]
        assert len(tiles) > 4
        for cut in (tiles[2], tiles[-1], len(data) - 2):
            assert fault_of(data[:cut]).reason == "truncated"


def test_deep_colours_of_jpeg_2000() -> None:
    """Pillow makes 65535 in colours 0; in grey it does not, see above."""
    for options in ({}, {"no_jp2": True}):
        data = bytearray(saved(COLOUR, "JPEG2000", **options))
        bits = data.index(b"\xff\x4f\xff\x51") + 42
        assert bytes(data[bits : bits + 9]) == b"\7\1\1" * 3
        data[bits] = 11
        assert fault_of(bytes(data)).detail.startswith("JPEG 2000 of 12 bits in colour")


def overlaid() -> bytes:
    """A TIFF of 300 tags, each of which has the same 60,000 bytes as its value."""
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, 60_000, 3700) for tag in range(300))
    return (b"II*\0" + struct.pack("<IH", 8, 300) + tags).ljust(3700, b"\0") + bytes(60_000)


@pytest.mark.parametrize(
    "data", [overlaid(), saved(COLOUR, "AVIF") + overlaid()], ids=["tiff", "exif"]
)
def test_values_of_tags_do_not_multiply(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would copy all of them: 100 GB for a file of 3 MB."""
    monkeypatch.setattr(pillow_formats, "_open", lambda *_: pytest.fail("opened"))
    assert "more than the whole file" in fault_of(data).detail
