"""Finds what `paths` names: expands globs and detects formats by name and by first bytes.

`sources.py` and the fingerprint use it after `spans.py` has resolved the spans.
"""

import glob
import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from components.image_sources.braces import expand_braces
from components.image_sources.config import InputConfig, absolute_path
from components.image_sources.ignored import ignored_reason
from components.image_sources.magic_numbers import (
    COMPRESSED_STARTS,
    IMAGE_STARTS,
    ZIP_STARTS,
    fault_of_start,
)
from components.image_sources.naming import escaped, printable
from components.image_sources.tar_stream import is_header
from trainer.errors import InputError
from trainer.storage import files
from trainer.storage.config import StorageConfig

TAR_SUFFIXES: Final = (
    *(".tar", ".tar.gz", ".tgz", ".taz", ".tar.zst", ".tzst"),
    *(".tar.bz2", ".tbz2", ".tbz", ".tb2", ".tar.xz", ".txz"),
)
MANIFEST_SUFFIXES: Final = (
    *(".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"),
    *(".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz"),
)
_IDX_MARKS: Final = ("-idx3-", "-idx4-", ".idx3-", "-images-idx", "-idx1-", ".idx1-")
_IMAGE_SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
)
_ARCHIVE_SUFFIXES: Final = (".zip", *TAR_SUFFIXES)
_PARQUET_SUFFIX: Final = ".parquet"
_SHARD_SUFFIXES: Final = (*_ARCHIVE_SUFFIXES, _PARQUET_SUFFIX)
_TFRECORD_MARK: Final = ".tfrec"
"""In names such as `a.tfrec` and `a.tfrecord-00000-of-00010`."""
_NUMBERED_SHARD: Final = re.compile(r"-\d{2,}-of-\d{2,}(\.gz)?$")
"""Ends names that tools of TensorFlow give to shards without a suffix: `train-00000-of-00128`."""
_LOOKED_AT: Final = 1000
_REMOTE_STARTS: Final = 16
"""How many objects are recognised by their first bytes too, because each costs a request."""


class Locator:
    """Finds the sources that `paths` names.

    Args:
        config: The input section, with spans resolved.
    """

    def __init__(self, config: InputConfig) -> None:
        self.config = config
        self._requests_left = _REMOTE_STARTS

    def sources(self) -> Iterator[tuple[str, str]]:
        """Expands `paths`.

        Yields:
            Path and format of each file, folder or dataset, once however often it is named; the
            matches of a glob sorted by name.

        Raises:
            InputError: if a path does not exist, its format cannot be detected, or a folder lies
                in another one, which would read its images twice under the same names.
        """
        seen = set[str]()
        folders: dict[str, str] = {}
        above: dict[str, str] = {}
        for path, image_format in self._named():
            place = _place(path)
            if place in seen:
                continue
            seen.add(place)
            if image_format == "folder":
                parents = list(_parents(place))
                inner, outer = above.get(place), path
                if inner is None and (around := folders.keys() & parents):
                    inner, outer = path, folders[around.pop()]
                if inner is not None:
                    by_pattern = any("**" in each for each in self.config.paths)
                    remedy = "leave out ** from" if by_pattern else "name only one of them in"
                    raise InputError(
                        f"{inner}: lies in {outer}, which is read with all of its folders;"
                        f" {remedy} `paths` of the input"
                    )
                folders[place] = path
                above |= dict.fromkeys(parents, path)
            yield path, image_format

    def _named(self) -> Iterator[tuple[str, str]]:
        for path in expand_braces(self.config.paths):
            if path.startswith("tfds:"):
                yield path, "tfds"
                continue
            for found in self.expand(path):
                if printable(found) != found:
                    raise InputError(f"{escaped(found)}: the name is not UTF-8; rename the archive")
                image_format = (
                    self.config.format if self.config.format != "auto" else self._tell(found)
                )
                for part in self._parts(found, image_format):
                    yield part, image_format

    def expand(self, path: str, given: str = "") -> list[str]:
        """Expands one path; trailing slashes of folders are removed.

        Args:
            path: A path or glob.
            given: What an error names instead, where the path was made from it.

        Raises:
            InputError: if nothing matches.
        """
        if found := files.matching(path, self.config.storage):
            return found
        what = "object" if files.is_remote(path) else "file"
        missing = "nothing matches" if glob.has_magic(path) else f"no such {what} or folder"
        raise InputError(f"{given or path}: {missing}; check `paths` of the input")

    def _tell(self, path: str) -> str:
        """Detects the format from the name, or from the first bytes if the name does not tell."""
        name = path.rpartition("/")[2].lower()
        if not files.is_remote(path) and os.path.isdir(path):
            return self._tell_folder(path)
        known = (*_ARCHIVE_SUFFIXES, *MANIFEST_SUFFIXES, _TFRECORD_MARK, *_IDX_MARKS)
        head = self._known_head(path) if any(map(name.__contains__, known)) else b""
        actual = _format_of_archive(head) if name.endswith(_ARCHIVE_SUFFIXES) else ""
        if actual == "zip" or (name.endswith(".zip") and not actual):
            return "zip"
        if actual or name.endswith(TAR_SUFFIXES):
            from components.image_sources.webdataset import WebDatasetReader

            return "webdataset" if WebDatasetReader(self.config).has_side_files(path) else "tar"
        if name.endswith(MANIFEST_SUFFIXES):
            return "parquet" if self._holds_images(path) else "manifest"
        if any(mark in name for mark in _IDX_MARKS):
            return "idx"
        if _TFRECORD_MARK in name:
            return "tfrecord"
        if files.is_remote(path) and files.is_folder(path, self.config.storage):
            return self._tell_folder(path)
        return self._sniff(path)

    def _holds_images(self, path: str) -> bool:
        """Returns whether a file that could be a manifest holds the images themselves."""
        if not path.lower().endswith(_PARQUET_SUFFIX):
            return False
        from components.image_sources.parquet import ParquetReader

        return ParquetReader(self.config).holds_images(path)

    def _tell_folder(self, path: str) -> str:
        if _idx_files(path, self.config.storage):
            return "idx"
        _refuse_archives(path, self.config.storage)
        return "folder"

    def _parts(self, path: str, image_format: str) -> list[str]:
        """Returns the files that one path stands for in its format."""
        if image_format != "idx":
            return [path]
        if files.is_folder(path, self.config.storage):
            return _idx_files(path, self.config.storage)
        return [] if "idx1" in path.rpartition("/")[2] else [path]

    def _sniff(self, path: str) -> str:
        """Detects the format from the first bytes."""
        from components.tfrecord_frames import holds_frames

        head = self._head(path)
        if holds_frames(head):
            return "tfrecord"
        if found := _format_of_archive(head):
            return found
        if fault := fault_of_start(head):
            raise InputError(f"{path}: {fault}")
        if head.startswith(IMAGE_STARTS):
            raise InputError(f"{path}: an image by itself; name the folder that holds it")
        what = "an empty file" if not head else "no archive, folder, manifest or data set"
        raise InputError(f"{path}: {what}; name its format with `format:` if it is one")

    def _known_head(self, path: str) -> bytes:
        """Returns the first bytes of a file whose name tells a format, unless it is a folder.

        A tar that is called `.zip`, or the reverse, is read as what it is.

        Raises:
            InputError: if they are those of something else, such as a web page.
        """
        if files.is_remote(path):
            self._requests_left -= 1
            if self._requests_left < 0 or files.is_folder(path, self.config.storage):
                return b""
        head = self._head(path)
        if fault := fault_of_start(head):
            raise InputError(f"{path}: {fault}")
        return head

    def _head(self, path: str) -> bytes:
        file = files.open_ranged(path, self.config.storage)
        try:
            return file.read(0, 512)
        finally:
            file.close()


def _names_in(folder: str, storage: StorageConfig) -> Iterator[tuple[str, bool]]:
    """Yields the names in a folder and whether they are folders, whose names may repeat.

    Of a folder in a bucket, which may hold millions of objects, these are the first ones.
    """
    if files.is_remote(folder):
        for name, _ in islice(files.entries(folder, storage), _LOOKED_AT):
            top, slash, _ = name.partition("/")
            yield top, bool(slash)
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir()


def _refuse_archives(folder: str, storage: StorageConfig) -> None:
    """Raises for a folder that holds archives and nothing else to read, such as shards.

    Raises:
        InputError: its message says how to name the archives.
    """
    suffixes: set[str] = set()
    for name, is_folder in _names_in(folder, storage):
        if ignored_reason(name):
            continue
        lower = name.lower()
        archive = next(filter(lower.endswith, _SHARD_SUFFIXES), None)
        if archive:
            suffixes.add(name[-len(archive) :])
        elif _TFRECORD_MARK in lower:
            suffixes.add(f"{_TFRECORD_MARK}*")
        elif not is_folder and _NUMBERED_SHARD.search(lower):
            suffixes.add("-of-*")
        elif is_folder or lower.endswith(_IMAGE_SUFFIXES):
            return
    if suffixes:
        named = ", ".join(f"{folder}/*{suffix}" for suffix in sorted(suffixes))
        raise InputError(f"{folder}: a folder of archives and not of images; name them: {named}")


def _format_of_archive(head: bytes) -> str:
    if head.startswith(ZIP_STARTS):
        return "zip"
    return "tar" if is_header(head) or head.startswith(COMPRESSED_STARTS) else ""


def _idx_files(folder: str, storage: StorageConfig) -> list[str]:
    """Returns the image files of a folder of IDX files; an empty list for any other folder.

    Files beside them are no obstacle, unless they look like images or archives.
    """
    names = []
    for name, is_folder in _names_in(folder, storage):
        if ignored_reason(name):
            continue
        if any(mark in name for mark in _IDX_MARKS):
            names.append(name)
        elif is_folder or name.lower().endswith((*_IMAGE_SUFFIXES, *_ARCHIVE_SUFFIXES)):
            return []
    return [f"{folder}/{name}" for name in sorted(names) if "idx1" not in name]


def idx_side_files(path: str, config: InputConfig) -> Iterator[tuple[str, str]]:
    """Yields the files beside IDX files, and why they are ignored.

    They belong to no IDX file, so that the first image file of a configured folder counts them.

    Args:
        path: An IDX file of images.
        config: The input section.
    """
    folder = path.rpartition("/")[0]
    given = {each.rstrip("/") for each in config.paths}
    if folder not in given or path not in _idx_files(folder, config.storage)[:1]:
        return
    for name in sorted({name for name, _ in _names_in(folder, config.storage)}):
        reason = ignored_reason(name)
        if reason or not any(mark in name for mark in _IDX_MARKS):
            yield name, reason or "side_file"


def _place(path: str) -> str:
    """Returns what is equal for two spellings of a path on this machine."""
    return path if path.startswith("tfds:") else absolute_path(path)


def _parents(place: str) -> Iterator[str]:
    """Yields the folders above a path, the innermost first."""
    while "/" in place.rstrip("/"):
        place = place.rstrip("/").rpartition("/")[0]
        if place:
            yield place
