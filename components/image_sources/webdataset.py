"""Reads WebDataset tar shards, in which adjacent files that share a basename form one sample.

The basename ends at the first dot. The label is the `.cls`, `.txt` or `.json` file next to the
image; the split is in the shard's name. Content decides about a file that is no known side file.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from components.image_sources import tar_stream
from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.config import MIB, InputConfig
from components.image_sources.ignored import ignored_reason, is_side_file
from components.image_sources.label_config import LabelsConfig
from components.image_sources.label_values import LabelValueError, read_label
from components.image_sources.naming import escaped, sample_key
from components.image_sources.origins import MISSED, SEVERAL, UNREAD
from components.image_sources.tar import BATCH_BYTES
from components.image_sources.tar_stream import TarMember
from trainer.data import features
from trainer.errors import InputError
from trainer.name_lists import named

IMAGE_SUFFIXES: Final = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "webp", "tif", "tiff", "ppm"),
        *("heic", "heif", "avif", "jp2", "jxl"),
    )
)
"""Suffixes by which a shard is recognised; images are recognised by their content."""
_LABEL_SUFFIXES: Final = ("cls", "txt", "json")
_JSON_KEYS: Final = ("label", "class", "cls", "class_name")
_CAPTION_KEYS: Final = frozenset(("caption", "url", "original_width"))
"""Keys of the JSON files that img2dataset writes beside an image and its caption."""
_NAMED: Final = 12
"""Most keys or suffixes in a message."""
_PEEKED: Final = 200
_PEEKED_BYTES: Final = 64 * MIB
"""Members of a tar, and bytes of it, by which a shard is recognised."""
_SAMPLE_BYTES: Final = 64 * MIB
_SAMPLE_MEMBERS: Final = 1024
"""Size of a sample above which only labels are added to it, up to twice as much."""
_REMEMBERED: Final = 1_000_000
"""Most samples without a label whose names are kept, to notice that a label comes late."""

Sample = list[tuple[str, TarMember]]


class WebDatasetReader(Reader):
    """Reads a WebDataset shard."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans one unit, because a tar can only be read from its beginning."""
        yield WorkUnit(0, path, "webdataset")

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one shard."""
        labels = _Labels(unit.source, self.config)
        wanted, others = self.config.webdataset.image.lower().lstrip("."), set[str]()
        found, is_unlabelled = False, unit.split == features.UNLABELLED
        batch, size = MemberBatch(unit.source), 0
        for key, sample in self._samples(unit.source):
            try:
                label, fault = labels.of(key, sample), ""
            except LabelValueError as error:
                label, fault = None, str(error) if self.refuses_labels else ""
            # The label of an image is lost if its file is a link or too large.
            beside = _LABEL_SUFFIXES if len(sample) > 1 else ()
            images, left_out, has_image = [], "", False
            for suffix, member in sample:
                is_beside = is_side_file(suffix) or wanted not in ("", suffix)
                reason = "folder" if member.kind == "folder" else ignored_reason(member.name)
                if reason:
                    batch.ignore(member.name, reason)
                elif member.kind and (suffix in beside or not is_beside):
                    batch.refuse(member.name, member.kind, member.detail)
                elif is_beside:
                    if not is_side_file(suffix):
                        left_out = left_out or member.name
                        if len(others) < _NAMED:
                            others.add(suffix)
                    batch.ignore(member.name, "side_file")
                elif fault:
                    batch.refuse(member.name, "bad_label", fault)
                else:
                    batch.add(member.name, member.data, label, unit.split)
                    size += len(member.data)
                    images.append(member.name)
                has_image = has_image or not is_beside
            found = found or has_image
            if left_out and not has_image:
                batch.origins.add(MISSED, left_out)
            if len(images) > 1 and label is not None:
                pair = sorted(images, key=len)[:2]
                batch.origins.add(SEVERAL, " and ".join(f"'{name}'" for name in pair))
            may_lack = images and label is None and not fault and not is_unlabelled
            if may_lack and (keys := labels.unread(sample)):
                batch.origins.add(UNREAD, keys, len(images))
            if batch.members >= self.config.units.batch or size >= BATCH_BYTES:
                yield batch
                batch, size = MemberBatch(unit.source), 0
        if wanted and others and not found:
            known = ", ".join(map(repr, sorted(others)))
            raise InputError(
                f"{unit.source}: no file has the suffix {wanted!r} of webdataset.image; they have"
                f" {known}"
            )
        if not is_unlabelled:
            labels.require_key()
        yield batch

    def _samples(self, path: str) -> Iterator[tuple[str, Sample]]:
        """Groups adjacent members of one key, of bounded number and size.

        A sample that is larger than that is divided, but never between an image and a label
        right behind it. Of side files only labels have data.
        """
        sample: Sample = []
        current, size = "", 0
        for member in tar_stream.members(path, self.config):
            key, suffix = sample_key(member.name)
            is_label = suffix.rpartition(".")[2] in _LABEL_SUFFIXES
            filled = max(size / _SAMPLE_BYTES, len(sample) / _SAMPLE_MEMBERS)
            if sample and (key != current or filled > (2 if is_label else 1)):
                yield current, sample
                sample, size = [], 0
            current = key
            if is_side_file(suffix) and not is_label:
                member = member._replace(data=b"")
            sample.append((suffix, member))
            size += len(member.data)
        if sample:
            yield current, sample

    def has_side_files(self, path: str) -> bool:
        """Returns whether the first members of a tar are those of a WebDataset shard.

        Raises:
            InputError: if the archive is damaged within these members.
        """
        found: dict[str, set[str]] = {}
        for member in islice(tar_stream.members(path, self.config), _PEEKED):
            if member.start > _PEEKED_BYTES:
                break
            key, suffix = sample_key(member.name)
            suffix = suffix.rpartition(".")[2]
            in_folder = "/" in key.removeprefix("./")
            may_annotate = suffix == "json" and in_folder and not self.config.webdataset.label
            if may_annotate and not _may_hold_label(member.data):
                continue
            suffixes = found.setdefault(key, set())
            suffixes.add(suffix)
            if suffixes & IMAGE_SUFFIXES and suffixes & set(_LABEL_SUFFIXES):
                return True
        return False


def _may_hold_label(data: bytes) -> bool:
    """Returns whether a JSON file has a key for a label, unlike those of annotation tools."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return True
    return not isinstance(values, dict) or not values.keys().isdisjoint(
        {*_JSON_KEYS, *_CAPTION_KEYS}
    )


class _Labels:
    """Finds the labels of samples, also where they precede the image in the shard.

    Args:
        path: The shard, for error messages.
        config: The input section.
    """

    def __init__(self, path: str, config: InputConfig) -> None:
        self._path = path
        self._config: LabelsConfig = config.labels
        self._key = config.webdataset.label if config.labels.source == "auto" else ""
        self._has_key = False
        self._keys_seen: set[str] = set()
        self._suffixes = ("json",) if self._key else _LABEL_SUFFIXES
        self._early: dict[str, str | None] = {}
        self._unlabelled: set[int] = set()

    def of(self, key: str, sample: Sample) -> str | None:
        """Returns the label of a sample; None if it has none.

        Raises:
            LabelValueError: if the value beside the image is no label.
            InputError: if the labels are in another order than the images, or are captions.
        """
        if self._config.source == "none":
            return None
        side = {suffix.rpartition(".")[2]: member.data for suffix, member in sample}
        chosen = next((suffix for suffix in self._suffixes if side.get(suffix)), None)
        has_image = any(not member.kind and not is_side_file(suffix) for suffix, member in sample)
        if chosen == "txt" and _has_caption(side):
            raise InputError(
                f"{self._path}: the .txt files beside the images hold captions, as img2dataset"
                " writes them, and no classes; set labels.source: none, or add .cls files"
            )
        label = None
        if chosen:
            label = self._read(chosen, self._only(chosen, sample))
        if not has_image:
            self._keep(key, label)
        elif label is None:
            label = self._early.pop(key, None)
            if label is None and len(self._unlabelled) < _REMEMBERED:
                self._unlabelled.add(hash(key))
        return label

    def _read(self, suffix: str, data: bytes) -> str | None:
        """Reads the label from a side file.

        Raises:
            LabelValueError: if its value is no label.
        """
        text = data.decode("utf-8", "surrogateescape").strip()
        if suffix != "json":
            return read_label(text, self._config.names, is_text=True)
        values = _from_json(text)
        if isinstance(values, dict):
            self._has_key = self._has_key or self._key in values
            if len(self._keys_seen) < _NAMED:
                self._keys_seen.update(islice(values, _NAMED))
            keys = (self._key,) if self._key else _JSON_KEYS
            values = next((values[key] for key in keys if values.get(key) is not None), None)
        return read_label(values, self._config.names)

    def unread(self, sample: Sample) -> str:
        """Says which keys a sample's JSON object has, none of which was taken for the label."""
        data = next((member.data for suffix, member in sample if suffix == "json"), b"")
        if self._config.source == "none" or self._key or not data:
            return ""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(values, dict) or not values or not values.keys().isdisjoint(_JSON_KEYS):
            return ""
        known = named(map(repr, sorted(values)), most=_NAMED)
        return (
            f"no key {', '.join(map(repr, _JSON_KEYS))} among {known} of the .json files; name it"
            " with webdataset.label"
        )

    def require_key(self) -> None:
        """Raises `InputError` if no JSON object of the shard has the configured key."""
        if self._key and not self._has_key:
            known = ", ".join(map(repr, sorted(self._keys_seen)[:_NAMED]))
            have = f"they have {known}" if known else "there are none"
            raise InputError(
                f"{self._path}: no .json file has the key {self._key!r} of webdataset.label; {have}"
            )

    def _only(self, chosen: str, sample: Sample) -> bytes:
        """Returns the content of the file with the label.

        Raises:
            InputError: if several would do, as where all names of a shard begin with `v1.`.
        """
        found = {
            suffix: member
            for suffix, member in sample
            if member.data and suffix.rpartition(".")[2] == chosen
        }
        if chosen not in found and len(found) > 1:
            if self._config.unreadable == "ignore":
                return b""
            one, two = (escaped(member.name) for member in list(found.values())[:2])
            raise InputError(
                f"{self._path}: {one} and {two} are labels of one sample, because its name ends at"
                " the first dot; rename the files, or set format: tar for labels from folders"
            )
        return found.get(chosen, next(iter(found.values()))).data

    def _keep(self, key: str, label: str | None) -> None:
        """Keeps a label that came without its image."""
        if label is None:
            return
        if hash(key) in self._unlabelled or len(self._early) >= _REMEMBERED:
            raise InputError(
                f"{self._path}: the label of {escaped(key)} is not next to its image; sort the"
                " shard so that the files of a sample follow each other (tar --sort=name), or set"
                " labels.source: none"
            )
        self._early[key] = label


def _has_caption(side: Mapping[str, bytes]) -> bool:
    """Returns whether img2dataset wrote the text file: its JSON names caption and address."""
    try:
        values = json.loads(side.get("json", b""))
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool(_CAPTION_KEYS & values.keys())


def _from_json(text: str) -> Any:
    """Parses a JSON file.

    Raises:
        LabelValueError: if the text is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelValueError("the .json file beside the image is no JSON") from error
