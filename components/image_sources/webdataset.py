"""Reads WebDataset tar shards, in which adjacent files that share a basename form one sample.

The basename ends at the first dot. The label is the `.cls`, `.txt` or `.json` file next to the
image; the split is in the shard's name.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from components.image_sources import tar_stream
from components.image_sources.base import WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import InputConfig
from components.image_sources.ignored import ignored_reason
from components.image_sources.tar import BATCH_BYTES
from components.image_sources.tar_stream import TarMember

IMAGE_SUFFIXES: Final = frozenset(("jpg", "jpeg", "png", "gif", "bmp", "webp", "ppm", "tif"))
_LABEL_SUFFIXES: Final = ("cls", "txt", "json")
_JSON_KEYS: Final = ("label", "class", "cls", "class_name")
_PEEKED: Final = 200
_NUMBER: Final = re.compile("[0-9]{1,9}")
_NAMELESS: Final = "\0"
"""Placeholder for a class number that has no name."""


def plan(path: str, config: InputConfig) -> Iterator[WorkUnit]:
    """Plans one unit, because a tar can only be read from its beginning."""
    del config
    yield WorkUnit(0, path, "webdataset")


def read(unit: WorkUnit, config: InputConfig) -> Iterator[MemberBatch]:
    """Reads one shard."""
    batch, size = MemberBatch(unit.source), 0
    for sample in _samples(unit.source, config):
        label = _label(sample, config)
        for suffix, member in sample:
            reason = "folder" if member.kind == "folder" else ignored_reason(member.name)
            if reason:
                batch.ignore(member.name, reason)
            elif member.kind:
                batch.refuse(member.name, member.kind, member.detail)
            elif suffix.rpartition(".")[2] not in IMAGE_SUFFIXES:
                batch.ignore(member.name, "side_file")
            elif label == _NAMELESS:
                batch.refuse(member.name, "bad_label", "the class number beside it has no name")
            else:
                batch.add(member.name, member.data, label, unit.split)
                size += len(member.data)
        if batch.members >= config.units.batch or size >= BATCH_BYTES:
            yield batch
            batch, size = MemberBatch(unit.source), 0
    yield batch


def has_side_files(path: str, config: InputConfig) -> bool:
    """Returns whether the first members of a tar are those of a WebDataset shard.

    Raises:
        InputError: if the archive is damaged within these members.
    """
    found: dict[str, set[str]] = {}
    for member in islice(tar_stream.members(path, config), _PEEKED):
        key, suffix = split_key(member.name)
        suffixes = found.setdefault(key, set())
        suffixes.add(suffix.rpartition(".")[2])
        if suffixes & IMAGE_SUFFIXES and suffixes & set(_LABEL_SUFFIXES):
            return True
    return False


def split_key(name: str) -> tuple[str, str]:
    """Splits a name into the sample's key, including the folder, and the lower-case suffix."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _samples(path: str, config: InputConfig) -> Iterator[list[tuple[str, TarMember]]]:
    """Groups adjacent members of one key; a group never exceeds the size of a batch."""
    sample: list[tuple[str, TarMember]] = []
    current, size = "", 0
    for member in tar_stream.members(path, config):
        key, suffix = split_key(member.name)
        if sample and (key != current or size > BATCH_BYTES or len(sample) >= config.units.batch):
            yield sample
            sample, size = [], 0
        current = key
        sample.append((suffix, member))
        size += len(member.data)
    if sample:
        yield sample


def _label(sample: list[tuple[str, TarMember]], config: InputConfig) -> str | None:
    """Reads the label from the sample's sidecar file."""
    if config.labels.source == "none":
        return None
    side = {suffix.rpartition(".")[2]: member.data for suffix, member in sample}
    for suffix in _LABEL_SUFFIXES:
        if suffix not in side:
            continue
        text = side[suffix].decode("utf-8", "replace").strip()
        if suffix == "json":
            text = _from_json(text)
        if text:
            return _named(text, config.labels.names)
    return None


def _from_json(text: str) -> str:
    """Reads the label from a JSON object; returns an empty string if it has none."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return ""
    if not isinstance(values, dict):
        return str(values) if isinstance(values, str | int) else ""
    for key in _JSON_KEYS:
        if isinstance(values.get(key), str | int):
            return str(values[key])
    return ""


def _named(text: str, names: tuple[str, ...]) -> str:
    """Replaces a class number by its name if names are configured."""
    if not names or not _NUMBER.fullmatch(text):
        return text
    return names[int(text)] if int(text) < len(names) else _NAMELESS
