"""Fetches a few members of archives by name, for the images in a report.

Zips, folders and manifests are read by ranges, IDX files by row number; formats that can only be
streamed are read for a bounded time. Unavailable members are omitted.
"""

import logging
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.folder import FolderReader
from components.image_sources.locate import Locator
from components.image_sources.naming import printable
from components.image_sources.repeated_names import UniqueNames
from components.image_sources.sources import open_reader
from components.image_sources.zip import ZipReader
from trainer.errors import InputError
from trainer.storage import files

_LOG = logging.getLogger(__name__)

_REPLACED: Final = "\ufffd"
READ_BY_NAME: Final = ("zip", "folder", "manifest")
"""Formats whose members are read without reading all before them."""
_BY_ROW: Final = ("idx", "parquet")
"""Formats whose units are ranges of rows and whose members' names begin with the row."""

Found = dict[tuple[str, str], bytes]


def pick_members(
    config: InputConfig,
    wanted: Mapping[str, set[str]],
    *,
    seconds: float = 4.0,
    now: Callable[[], float] = time.monotonic,
) -> Found:
    """Reads members.

    Args:
        config: How the archives are read: format, limits, storage.
        wanted: Names of members by source, both as in a table of rows or rejects.
        seconds: Time limit after which reading stops.
        now: Monotonic clock in seconds; injectable for tests.

    Returns:
        The bytes of the members that were found, by source and name.
    """
    picked = pick_each(config, wanted, seconds=seconds, now=now)
    return {(source, name): data for source, name, data in picked}


def pick_each(
    config: InputConfig,
    wanted: Mapping[str, set[str]],
    *,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, str, bytes]]:
    """Reads members as `pick_members` does, and yields source, name and bytes of each."""
    until = now() + seconds
    for source, names in wanted.items():
        left = set(names)
        try:
            for batch in _batches(source, left, config):
                for name, data in zip(map(printable, batch.names), batch.data, strict=True):
                    if name in left:
                        left.discard(name)
                        yield source, name, data
                if not left or now() > until:
                    break
        except (InputError, OSError, ValueError) as error:
            _LOG.info("no pictures from %s: %s", source, error)
        if now() > until:
            _LOG.info("not all pictures were fetched within %.0f s", seconds)
            break


def pick_one(config: InputConfig, source: str, name: str, *, seconds: float) -> MemberBatch | None:
    """Reads one member, with all that its source says about it.

    Args:
        config: How the archive is read: format, limits, storage.
        source: The archive, as in a table of rows.
        name: The name of the member there.
        seconds: Time limit after which reading stops.

    Returns:
        A batch of this member; None if it was not found.
    """
    until = time.monotonic() + seconds
    try:
        for batch in _batches(source, {name}, config):
            for single in batch.slices(1, 0):
                if single.names and printable(single.names[0]) == name:
                    return single
            if time.monotonic() > until:
                return None
    except (InputError, OSError, ValueError) as error:
        _LOG.info("%s: %s", source, error)
    return None


def _batches(source: str, names: set[str], config: InputConfig) -> Iterator[MemberBatch]:
    single = config.model_copy(update={"paths": (source,)})
    for path, image_format in Locator(single).sources():
        if image_format == "zip":
            yield from ZipReader(single).pick(path, names)
        elif image_format in ("folder", "manifest"):
            is_manifest = image_format == "manifest"
            # Paths in a manifest are text, and are found as they are.
            shown = {name if is_manifest else _on_disk(path, name): name for name in sorted(names)}
            rows = [(name, None, None) for name in shown]
            reader = FolderReader(single)
            for batch in reader.read_files(path, rows, names_are_paths=is_manifest):
                batch.names = [shown[name] for name in batch.names]
                yield batch
        else:
            yield from _streamed(path, image_format, names, single)


def _on_disk(folder: str, name: str) -> str:
    """Returns the real name of a local file, whose bytes that are not UTF-8 were replaced."""
    if _REPLACED not in name or files.is_remote(folder):
        return name
    base, _, number = name.rpartition("#")
    for shown, place in ((name, 0), (base, int(number) - 1 if number.isdecimal() else -1)):
        if 0 <= place < len(found := list(_called(folder, shown))):
            return found[place]
    return name


def _called(folder: str, shown: str) -> Iterator[str]:
    """Yields the paths below a folder that look like this one, in the order of `files.walk`."""
    head, slash, rest = shown.partition("/")
    names = files.list_names(folder) if _REPLACED in head else [head]
    for name in names:
        if printable(name) == head:
            below = _called(posixpath.join(folder, name), rest) if slash else iter([""])
            yield from (posixpath.join(name, path) if path else name for path in below)


def _streamed(
    path: str, image_format: str, names: set[str], config: InputConfig
) -> Iterator[MemberBatch]:
    source = open_reader(image_format, config)
    for unit in source.plan(path):
        unique = UniqueNames(unit.earlier)
        if image_format in _BY_ROW:
            numbers = [name.partition("/")[0] for name in names]
            rows = [int(number) for number in numbers if number.isdigit()]
            if not any(unit.start <= row < unit.stop for row in rows):
                continue
        for batch in source.read(unit):
            unique.apply(batch)
            yield batch
