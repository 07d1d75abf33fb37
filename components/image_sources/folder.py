"""Folder trees on disk and prefixes in Cloud Storage: one file per image, labels from folders.

Units carry the names of their files, packed; manifests use the same reader with their own labels.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Final

from components.image_sources import files, listing
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.naming import PathNaming, is_litter

_CLOUD_READS: Final = 16
"""Objects read at a time: their cost is latency."""


def plan(path: str, config: InputConfig) -> Iterator[WorkUnit]:
    """Plans the units of one root."""
    if files.is_cloud(path):
        from components.image_sources import cloud_storage

        names: Iterator[str] = cloud_storage.walk(path, config.storage)
    else:
        names = listing.walk(path)
    while chunk := list(islice(names, config.units.members)):
        yield WorkUnit(0, path, "folder", members=len(chunk), extra=pack_names(chunk))


def read(unit: WorkUnit, config: InputConfig) -> Iterator[MemberBatch]:
    """Reads the files of one unit."""
    naming = PathNaming(config)
    rows = ((name, *naming.place(name)) for name in unpack_names(unit.extra))
    yield from read_files(unit.source, rows, config)


def read_files(
    source: str,
    rows: Iterable[tuple[str, str | None, str | None]],
    config: InputConfig,
    *,
    names_are_paths: bool = False,
) -> Iterator[MemberBatch]:
    """Reads files in batches.

    Args:
        source: The folder that names start from, or the manifest that gives whole paths.
        rows: Name, label and split of each file.
        config: Limits, batch sizes and storage.
        names_are_paths: Whether names are whole paths.

    Yields:
        Batches in the order of `rows`; a batch ends early when its bytes reach a unit's.
    """
    rows = iter(rows)
    step = 4 * _CLOUD_READS
    with ThreadPoolExecutor(_CLOUD_READS) as pool:
        while chunk := list(islice(rows, config.units.batch)):
            root = "" if names_are_paths else source
            paths = [os.path.join(root, name) for name, _, _ in chunk]
            read_one = _FileReader(config)
            contents: Iterator[bytes | tuple[str, str] | None] = map(read_one, paths)
            if any(map(files.is_cloud, paths)):
                # Threads hide the latency of objects; local files are faster without them. A few
                # rounds at a time, so that large photographs do not pile up.
                rounds = range(0, len(paths), step)
                contents = chain.from_iterable(
                    pool.map(read_one, paths[at : at + step]) for at in rounds
                )
            batch = MemberBatch(source, names_are_paths=names_are_paths)
            room = config.units.max_bytes
            for (name, label, split), content in zip(chunk, contents, strict=True):
                if content is None:
                    batch.ignored += 1
                elif isinstance(content, bytes):
                    batch.add(name, content, label, split)
                    room -= len(content)
                else:
                    batch.refuse(name, *content)
                if room <= 0:
                    yield batch
                    batch = MemberBatch(source, names_are_paths=names_are_paths)
                    room = config.units.max_bytes
            yield batch


class _FileReader:
    """Reads one file: its bytes, None for litter, or reason and detail of what is wrong."""

    def __init__(self, config: InputConfig) -> None:
        self._storage = config.storage
        self._limit = config.limits.max_bytes

    def __call__(self, path: str) -> bytes | tuple[str, str] | None:
        if is_litter(path):
            return None
        try:
            if not files.is_cloud(path) and (kind := listing.kind_of(path)):
                return kind, "dangling link" if kind == "link" else "not a regular file"
            data = files.read_file(path, self._storage, self._limit)
        except FileNotFoundError:
            return "missing", "no such file"
        except OSError as error:
            return "unreadable", error.strerror or str(error)
        if len(data) > self._limit:
            return "too_large", f"more than limits.max_bytes, {self._limit}"
        return data


def pack_names(rows: list[str]) -> bytes:
    """Packs strings for a work unit."""
    return zlib.compress(json.dumps(rows).encode("ascii"), 1)


def unpack_names(packed: bytes) -> list[str]:
    """Undoes `pack`."""
    return json.loads(zlib.decompress(packed))
