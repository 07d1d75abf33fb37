"""Computes a fingerprint of the inputs that changes with any file, far cheaper than an ingest.

The driver adds it to the execution properties, so that TFX's cache notices a changed archive.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from typing import Final

from components.image_sources.config import InputConfig
from components.image_sources.file_facts import file_facts
from components.image_sources.locate import Locator
from components.image_sources.zip_directory import find_directory
from trainer.errors import InputError
from trainer.progress import PROGRESS_LOGGER
from trainer.storage import files
from trainer.storage.config import StorageConfig

_WINDOW: Final = 4 * 1024 * 1024
_MOST_FOLDERS: Final = 1000
_BUCKET_SLASHES: Final = 2
"""Number of slashes in `gs://bucket`."""
_LOG: Final = logging.getLogger(PROGRESS_LOGGER)


def fingerprint(config: InputConfig) -> str:
    """Returns a digest that identifies the current state of the inputs.

    A zip is identified by its central directory, which holds a checksum of every member: copying
    or touching the archive does not change the digest, changing one image does. Other archives
    are identified by size, timestamps and samples of their content; folders by name, size and
    timestamps of every file; objects by their generation; corrections by their content. The folder
    of a local input is no part of it.

    Args:
        config: The input section, with spans resolved.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: if a path does not exist.
    """
    digest = hashlib.sha256()
    for path, image_format in Locator(config).sources():
        # Without its folders: the same images elsewhere are no reason to train on them again.
        name = path if files.is_remote(path) else os.path.basename(path.rstrip(os.sep))
        digest.update(f"{image_format}\0{name}\n".encode("utf-8", "surrogateescape"))
        for fact in _facts(path, image_format, config):
            digest.update(fact)
    for path in config.labels.corrections:
        digest.update(files.read_bytes(path, config.storage))
    return digest.hexdigest()


def _facts(path: str, image_format: str, config: InputConfig) -> Iterator[bytes]:
    """Yields the bytes that identify one file, folder or dataset."""
    if image_format == "zip":
        yield from _zip_facts(path, config.storage)
    elif image_format == "tfds":
        from components.image_sources.tfds import TFDSReader

        for shard in TFDSReader(config).shard_files(path):
            yield from file_facts(shard, config.storage)
    elif image_format == "folder" and files.is_remote(path):
        yield from _object_facts(path, config.storage)
    elif image_format == "folder":
        for name in files.walk(path):
            yield _stat_facts(os.path.join(path, name), name)
    else:
        yield from file_facts(path, config.storage)
        if image_format == "manifest":
            from components.image_sources.manifest import ManifestReader

            folders = _ObjectFolders()
            here = f"{path.rpartition('/')[0] or '.'}/"
            for name in ManifestReader(config).named_files(path):
                if files.is_remote(name):
                    folders.add(name)
                else:
                    yield _stat_facts(name, name.removeprefix(here))
            yield from folders.facts(config.storage)
        elif image_format == "idx":
            from components.image_sources.idx import IdxReader

            yield from file_facts(IdxReader(config).label_file(path), config.storage)


class _ObjectFolders:
    """Collects the folders of the objects that a manifest names, to list them page by page.

    Querying each object would cost one request per image. As a consequence, a new object next to
    the named ones changes the fingerprint as well. If there are very many folders, their parent
    folders are listed instead.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._with_all_below = False

    def add(self, path: str) -> None:
        """Adds the folder of one object."""
        folder = path.rpartition("/")[0]
        if self._with_all_below:
            while folder not in self._folders and folder != _above(folder):
                folder = _above(folder)
        self._folders.add(folder)
        while len(self._folders) > _MOST_FOLDERS:
            above = {_above(known) for known in self._folders}
            if above == self._folders:
                return
            self._folders, self._with_all_below = above, True

    def facts(self, storage: StorageConfig) -> Iterator[bytes]:
        """Yields name, size and generation of every object in the folders."""
        for folder in sorted(self._folders):
            try:
                yield from _object_facts(folder, storage, below=self._with_all_below)
            except InputError as error:
                # The folder's images become rejects later, or can be read without being listed.
                _LOG.warning("%s; changes of objects there go unnoticed", error)


def _object_facts(folder: str, storage: StorageConfig, *, below: bool = True) -> Iterator[bytes]:
    """Yields name, size and version of the objects under a folder, or only of those in it."""
    for name, facts in files.entries(folder, storage, below=below):
        # The name within the bucket.
        address = f"{folder.rstrip('/')}/{name}".split("/", 3)[3]
        yield f"{address}\0{facts.size} {facts.version}\n".encode()


def _above(folder: str) -> str:
    """Returns the parent folder; a bucket is its own parent."""
    return folder.rpartition("/")[0] if folder.count("/") > _BUCKET_SLASHES else folder


def _zip_facts(path: str, storage: StorageConfig) -> Iterator[bytes]:
    """Yields the size and the central directory of a zip."""
    file = files.open_ranged(path, storage)
    try:
        directory = find_directory(path, file)
        yield str(file.size).encode()
        for at in range(directory.start, directory.stop, _WINDOW):
            yield file.read(at, min(_WINDOW, directory.stop - at))
    finally:
        file.close()


def _stat_facts(path: str, name: str) -> bytes:
    """Returns name, size and timestamps; a missing file yields a value of its own."""
    try:
        status = os.stat(path)
        facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError:
        facts = "none"
    return f"{name}\0{facts}\n".encode("utf-8", "surrogateescape")
