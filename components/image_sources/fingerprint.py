"""The fingerprint of the inputs: it changes when any file does, and is cheap beside an ingest.

The driver puts it among the execution's properties, so that TFX's cache sees a changed archive.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Final

from components.image_sources import files, listing
from components.image_sources.config import InputConfig
from components.image_sources.locate import locate
from components.image_sources.zip_directory import find_directory

_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 1024
_WINDOW: Final = 4 * 1024 * 1024


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

            for name in manifest.local_files(path, config):
                yield _stat_facts(name, name)
        elif image_format == "idx":
            from components.image_sources import idx

            yield from _file_facts(idx.label_file(path, config), config)


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
