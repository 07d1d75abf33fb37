"""Reads folder trees on disk and prefixes in Cloud Storage: one file per image.

Labels come from folder names. Units carry the compressed names of their files; manifests use the
same reader with their own labels.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Final

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.naming import PathNaming, printable
from components.image_sources.repeated_names import RepeatedNames, pack_counts
from trainer.storage import files, listing
from trainer.storage.failures import StorageError

_CLOUD_READS: Final = 16
"""Number of objects read concurrently; latency dominates their cost."""


class FolderReader(Reader):
    """Reads a folder tree, or all objects below a prefix."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans the units of one root folder."""
        names = files.walk(path, self.config.storage)
        repeated = RepeatedNames()
        while chunk := list(islice(names, self.config.units.members)):
            # Only names that are not UTF-8 can look like one of another file.
            odd = [shown for name in chunk if (shown := printable(name)) != name]
            yield WorkUnit(
                *(0, path, "folder"),
                members=len(chunk),
                extra=pack_names(chunk),
                earlier=pack_counts(repeated.add(odd)),
            )

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads the files of one unit."""
        naming = PathNaming(self.config, unit.split)
        passed = MemberBatch(unit.source)
        rows: list[tuple[str, str | None, str | None]] = []
        for name in unpack_names(unit.extra):
            if reason := ignored_reason(name):
                passed.ignore(name, reason)
            elif is_side_file(name):
                passed.ignore(name, "side_file")
            else:
                place = naming.place(name)
                rows.append((name, place.label, place.split))
        if passed.members:
            yield passed
        yield from self.read_files(unit.source, rows)

    def version(self, unit: WorkUnit) -> bytes:
        """Returns name, size and modification time of each file; only the names of objects.

        One request per object would cost as much as reading it.
        """
        if files.is_remote(unit.source):
            return unit.place
        names = unpack_names(unit.extra)
        facts = "\0".join(
            f"{name}\0{file_version(os.path.join(unit.source, name))}" for name in names
        )
        return facts.encode("utf-8", "surrogateescape") + unit.earlier

    def read_files(
        self,
        source: str,
        rows: Iterable[tuple[str, str | None, str | None]],
        *,
        names_are_paths: bool = False,
    ) -> Iterator[MemberBatch]:
        """Reads files in batches.

        Args:
            source: The folder that names are relative to, or the manifest that gives full paths.
            rows: Name, label and split of each file.
            names_are_paths: Whether names are full paths.

        Yields:
            Batches in the order of `rows`; a batch ends early at `units.max_bytes`.
        """
        rows = iter(rows)
        step = 4 * _CLOUD_READS
        with ThreadPoolExecutor(_CLOUD_READS) as pool:
            while chunk := list(islice(rows, self.config.units.batch)):
                root = "" if names_are_paths else source
                paths = [os.path.join(root, name) for name, _, _ in chunk]
                contents: Iterator[bytes | tuple[str, str]] = map(self._read_file, paths)
                if any(map(files.is_remote, paths)):
                    # Threads hide the latency of objects; local files are faster without them. Only
                    # a few rounds are in flight, so that large photographs do not fill the memory.
                    rounds = range(0, len(paths), step)
                    contents = chain.from_iterable(
                        pool.map(self._read_file, paths[at : at + step]) for at in rounds
                    )
                batch = MemberBatch(source, names_are_paths=names_are_paths)
                room = self.config.units.max_bytes
                for (name, label, split), content in zip(chunk, contents, strict=True):
                    if isinstance(content, bytes):
                        batch.add(name, content, label, split)
                        room -= len(content)
                    else:
                        batch.refuse(name, *content)
                    if room <= 0:
                        yield batch
                        batch = MemberBatch(source, names_are_paths=names_are_paths)
                        room = self.config.units.max_bytes
                yield batch

    def _read_file(self, path: str) -> bytes | tuple[str, str]:
        """Reads one file; returns its bytes, or the reason and detail of a reject."""
        limit = self.config.limits.max_bytes
        try:
            if not files.is_remote(path) and (kind := listing.kind_of(path)):
                what = "a folder" if os.path.isdir(path) else "not a regular file"
                return kind, "dangling link" if kind == "link" else what
            data = files.read_bytes(path, self.config.storage, limit + 1)
        except FileNotFoundError:
            return "missing", "no such file"
        except StorageError as error:
            return "unreadable", error.reason
        except OSError as error:
            return "unreadable", error.strerror or str(error)
        if len(data) > limit:
            return "too_large", f"more than limits.max_bytes, {limit}"
        return data


def file_version(path: str) -> str:
    """Returns size and modification time of a file of this machine, or why it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"unreadable {error.errno}"
    return f"{status.st_size} {status.st_mtime_ns}"


def pack_names(rows: list[str]) -> bytes:
    """Compresses a list of strings for a work unit."""
    return zlib.compress(json.dumps(rows).encode("ascii"), 1)


def unpack_names(packed: bytes) -> list[str]:
    """Returns the strings that `pack_names` compressed."""
    return json.loads(zlib.decompress(packed))
