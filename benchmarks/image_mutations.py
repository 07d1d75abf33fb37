"""Damages image files by a random generator, in ways of any format and of each its own.

`benchmarks/fuzz_decoders.py` and `tests/components/test_decoder_agreement.py` draw from it.
"""

import random
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from benchmarks.image_files import PNG_MAGIC, png_of

_BYTES: Final = (0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x10, 0x7F, 0x80, 0xFE, 0xFF)
_ANCILLARY: Final = (
    (b"tRNS", 2),
    (b"tRNS", 6),
    (b"tRNS", 200),
    (b"gAMA", 4),
    (b"cHRM", 32),
    (b"sRGB", 1),
    (b"iCCP", 20),
    (b"sBIT", 3),
    (b"bKGD", 6),
    (b"hIST", 4),
    (b"pHYs", 9),
    (b"tIME", 7),
    (b"acTL", 8),
    (b"fcTL", 26),
    (b"eXIf", 20),
    (b"PLTE", 9),
    (b"tEXt", 12),
    (b"prVt", 5),
)
_MARKERS: Final = (*range(0xC0, 0xD0), *range(0xD0, 0xE3), 0xEE, 0xFE, 0x01)


class Mutant(NamedTuple):
    """A damaged file.

    Attributes:
        seed: Name of the valid file that it was made from, for example `jpeg/progressive`.
        steps: Names of the mutations, in order.
        data: The file's bytes.
    """

    seed: str
    steps: tuple[str, ...]
    data: bytes

    @property
    def format(self) -> str:
        """Returns the format of the valid file, one of `FORMATS`."""
        return self.seed.partition("/")[0]


def mutate(name: str, data: bytes, rng: random.Random) -> Mutant:
    """Damages a file by one to three mutations, of any kind and of the kinds of its format.

    Args:
        name: Its name, as `valid_files` gives it.
        data: Its bytes.
        rng: The generator; the same state gives the same result.
    """
    own = _OF_FORMAT.get(name.partition("/")[0], ())
    steps = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        choices = own if own and rng.random() < 0.6 else _OF_ANY
        step = rng.choice(choices)
        # A file that was damaged before may lack what a mutation needs.
        data = step(data, rng) if data else data
        steps.append(step.__name__.strip("_"))
    return Mutant(name, tuple(steps), data)


def _bit_flips(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _header_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[rng.randrange(min(len(changed), 64))] = rng.choice(_BYTES)
    return bytes(changed)


def _overwritten(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + _content(rng, rng.randint(1, 16)) + data[at + rng.randint(1, 16) :]


def _inserted(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + _content(rng, rng.choice((1, 2, 7, 64))) + data[at:]


def _truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 8, 50)) :]


def _repeated(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[: at + rng.choice((1, 4, 30))] + data[at:]


def _extended(data: bytes, rng: random.Random) -> bytes:
    return data + _content(rng, rng.choice((1, 8, 200)))


def _content(rng: random.Random, length: int) -> bytes:
    if rng.random() < 0.5:
        return bytes([rng.choice(_BYTES)]) * length
    return rng.randbytes(length)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _chunk_bytes(data: bytes, rng: random.Random) -> bytes:
    """Changes the content of a chunk; the checksum is right."""
    chunks = _png_chunks(data)
    places = [place for place, (_, content) in enumerate(chunks) if content]
    if not places:
        return data
    place = rng.choice(places)
    kind, content = chunks[place]
    step = rng.choice((_bit_flips, _header_bytes, _truncated, _cut_out, _inserted))
    chunks[place] = (kind, step(content, rng))
    return png_of(chunks)


def _chunk_order(data: bytes, rng: random.Random) -> bytes:
    """Drops, doubles or moves a chunk."""
    chunks = _png_chunks(data)
    if not chunks:
        return data
    chunk = chunks.pop(rng.randrange(len(chunks)))
    for _ in range(rng.choice((0, 1, 2))):
        chunks.insert(rng.randrange(len(chunks) + 1), chunk)
    return png_of(chunks)


def _chunk_added(data: bytes, rng: random.Random) -> bytes:
    chunks = _png_chunks(data)
    kind, length = rng.choice(_ANCILLARY)
    chunks.insert(rng.randrange(len(chunks) + 1), (kind, _content(rng, length)))
    return png_of(chunks)


def _png_rows(data: bytes, rng: random.Random) -> bytes:
    """Changes the filters and samples below the compression, or splits the compressed data."""
    chunks = _png_chunks(data)
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    try:
        rows = zlib.decompress(packed)
    except zlib.error:
        return data
    if rows and rng.random() < 0.8:
        packed = zlib.compress(rng.choice((_bit_flips, _header_bytes, _truncated, _extended))(
            rows, rng))  # fmt: skip
    at = rng.randrange(len(packed) + 1)
    parts = [(b"IDAT", packed[:at]), (b"IDAT", packed[at:])]
    before = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    return png_of([*before, *parts, (b"IEND", b"")])


def _jpeg_segments(data: bytes) -> list[bytes]:
    """Splits a JPEG at its segments; a scan's data belong to its header."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while end + 1 < len(data) and (
                data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7
            ):
                end += 1
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def _segment_bytes(data: bytes, rng: random.Random) -> bytes:
    """Changes the content of a segment; the length is right."""
    parts = _jpeg_segments(data)
    place = rng.randrange(len(parts))
    head, content = parts[place][:4], parts[place][4:]
    if not content:
        return data
    step = rng.choice((_bit_flips, _header_bytes))
    parts[place] = head + step(content, rng)
    return b"".join(parts)


def _segment_order(data: bytes, rng: random.Random) -> bytes:
    """Drops, doubles or moves a segment."""
    first, *parts = _jpeg_segments(data)
    if not parts:
        return data
    part = parts.pop(rng.randrange(len(parts)))
    for _ in range(rng.choice((0, 1, 2))):
        parts.insert(rng.randrange(len(parts) + 1), part)
    return first + b"".join(parts)


def _segment_added(data: bytes, rng: random.Random) -> bytes:
    first, *parts = _jpeg_segments(data)
    content = _content(rng, rng.choice((0, 1, 2, 4, 14, 65)))
    if rng.random() < 0.3:
        content = b"Adobe" + content
    length = struct.pack(">H", len(content) + 2)
    added = bytes([0xFF, rng.choice(_MARKERS)]) + (length + content if rng.random() < 0.9 else b"")
    parts.insert(rng.randrange(len(parts) + 1), added)
    return first + b"".join(parts)


def _marker_changed(data: bytes, rng: random.Random) -> bytes:
    parts = _jpeg_segments(data)
    place = rng.randrange(len(parts))
    if len(parts[place]) > 1:
        parts[place] = parts[place][:1] + bytes([rng.choice(_MARKERS)]) + parts[place][2:]
    return b"".join(parts)


_OF_ANY: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _bit_flips,
    _header_bytes,
    _overwritten,
    _inserted,
    _truncated,
    _cut_out,
    _repeated,
    _extended,
)
_OF_FORMAT: Final[dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]]] = {
    "png": (_chunk_bytes, _chunk_order, _chunk_added, _png_rows),
    "jpeg": (_segment_bytes, _segment_order, _segment_added, _marker_changed),
}
