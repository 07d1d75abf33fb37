"""The fingerprint of the inputs: it changes when any file does, and is cheap beside an ingest.

The driver puts it among the execution's properties, so that TFX's cache sees a changed archive.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from typing import Final

from components.image_sources import files, listing
from components.image_sources.config import InputConfig
from components.image_sources.errors import InputError
from components.image_sources.locate import locate
from components.image_sources.zip_directory import find_directory
from trainer.progress import PROGRESS_LOGGER

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 1024
_WINDOW: Final = 4 * 1024 * 1024
_MOST_FOLDERS: Final = 1000
_BUCKET_SLASHES: Final = 2
"""In `gs://bucket`."""
_LOG: Final = logging.getLogger(PROGRESS_LOGGER)


def fingerprint(config: InputConfig) -> str:
    """Digests what tells one state of the inputs from another.

    A zip is known by its central directory, which holds a checksum of every member: copying or
    touching the archive changes nothing, changing one image does. Other archives are known by
    size, times and samples of their content; folders by name, size and times of every file;
    objects by their generation.

    Args:
        config: The input section, spans resolved.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: if a path does not exist.
    """
    digest = hashlib.sha256()
    for path, image_format in locate(config):
        digest.update(f"{image_format}\0{path}\n".encode("utf-8", "surrogateescape"))
        for fact in _facts(path, image_format, config):
            digest.update(fact)
    return digest.hexdigest()


def _facts(path: str, image_format: str, config: InputConfig) -> Iterator[bytes]:
    """Gives the facts of one file, folder or data set."""
    if image_format == "zip":
        yield from _zip_facts(path, config)
    elif image_format == "tfds":
        from components.image_sources import tfds

        for shard in tfds.shard_files(path, config):
            yield from _file_facts(shard, config)
    elif image_format == "folder" and files.is_cloud(path):
        from components.image_sources import cloud_storage

        yield from cloud_storage.walk_facts(path, config.storage)
    elif image_format == "folder":
        for name in listing.walk(path):
            yield _stat_facts(os.path.join(path, name), name)
    else:
        yield from _file_facts(path, config)
        if image_format == "manifest":
            from components.image_sources import manifest

            folders = _ObjectFolders()
            for name in manifest.named_files(path, config):
                if files.is_cloud(name):
                    folders.add(name)
                else:
                    yield _stat_facts(name, name)
            yield from folders.facts(config)
        elif image_format == "idx":
            from components.image_sources import idx

            yield from _file_facts(idx.label_file(path, config), config)


class _ObjectFolders:
    """The folders of the objects that a manifest names; those are listed, page by page.

    Asking for each object would be a request per image. So a new object beside those that are
    named changes the fingerprint as well. Where there are very many folders, those above them
    stand for them.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._with_all_below = False

    def add(self, path: str) -> None:
        """Takes in the folder of one object."""
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

    def facts(self, config: InputConfig) -> Iterator[bytes]:
        """Gives name, size and generation of every object in the folders."""
        from components.image_sources import cloud_storage

        for folder in sorted(self._folders):
            try:
                yield from cloud_storage.walk_facts(
                    folder, config.storage, with_all_below=self._with_all_below
                )
            except InputError as error:
                # Its images become rejects, or are readable without being listed.
                _LOG.warning("%s; changes of objects there go unnoticed", error)


def _above(folder: str) -> str:
    """Gives the folder above; a bucket stays."""
    return folder.rpartition("/")[0] if folder.count("/") > _BUCKET_SLASHES else folder


def _zip_facts(path: str, config: InputConfig) -> Iterator[bytes]:
    """Size and central directory."""
    file = files.open_ranged(path, config.storage)
    try:
        directory = find_directory(path, file)
        yield str(file.size).encode()
        for at in range(directory.start, directory.stop, _WINDOW):
            yield file.read(at, min(_WINDOW, directory.stop - at))
    finally:
        file.close()


def _file_facts(path: str, config: InputConfig) -> Iterator[bytes]:
    """Size, version, and samples from the first to the last byte."""
    size, version = files.facts(path, config.storage)
    yield f"{size} {version}".encode()
    if files.is_cloud(path):
        return
    file = files.open_ranged(path, config.storage)
    try:
        step = max(_SAMPLE_BYTES, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        for at in range(0, size, step):
            yield file.read(at, _SAMPLE_BYTES)
    finally:
        file.close()


def _stat_facts(path: str, name: str) -> bytes:
    """Name, size and times; a file that is not there is a fact as well."""
    try:
        status = os.stat(path)
        facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError:
        facts = "none"
    return f"{name}\0{facts}\n".encode("utf-8", "surrogateescape")
