"""Reads image datasets of TensorFlow Datasets by name: `tfds:mnist` or `tfds:mnist:3.0.1`.

TFDS locates the dataset, and downloads it if configured, when the work is planned; workers read
the shards of the prepared dataset as TFRecord files, without TFDS.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from components.image_sources.base import Reader, WorkUnit
from components.image_sources.batch import MemberBatch
from components.image_sources.naming import split_of_value
from components.image_sources.record_config import TFDSConfig, TFRecordConfig
from components.image_sources.tfrecord import TFRecordReader, note_unread_features
from trainer.errors import InputError


class _Prepared(NamedTuple):
    shards: tuple[tuple[str, str, int], ...]
    """Split, file and number of examples of each shard."""
    names: tuple[str, ...]


class TFDSReader(Reader):
    """Reads a data set of TensorFlow Datasets."""

    def plan(self, path: str) -> Iterator[WorkUnit]:
        """Plans one unit per shard."""
        prepared = _prepared(path, self.config.tfds)
        for split, shard, examples in prepared.shards:
            extra = json.dumps({"split": split, "names": prepared.names}).encode()
            yield WorkUnit(0, shard, "tfds", members=examples, extra=extra)

    def read(self, unit: WorkUnit) -> Iterator[MemberBatch]:
        """Reads one shard."""
        extra = json.loads(unit.extra)
        label = self.config.tfds.label if self.config.labels.source == "auto" else ""
        keys = TFRecordConfig(
            encoded=self.config.tfds.image, label_text="", label=label, filename=""
        )
        split = split_of_value(extra["split"]) if self.config.splits.source == "auto" else None
        reader = TFRecordReader(self.config)
        seen: set[str] = set()
        names = tuple(extra["names"])
        for batch in reader.read_records(unit.source, split, keys, names, seen):
            note_unread_features(batch, keys, seen, "tfds.label")
            yield batch

    def version(self, unit: WorkUnit) -> bytes:
        """Returns the shard's place: a prepared version of a data set does not change."""
        return unit.place

    def shard_files(self, path: str) -> list[str]:
        """Returns the dataset's files, for the fingerprint."""
        return [shard for _, shard, _ in _prepared(path, self.config.tfds).shards]


@lru_cache(maxsize=8)
def _prepared(path: str, config: TFDSConfig) -> _Prepared:
    """Finds the prepared dataset.

    Raises:
        InputError: if there is none, or it lacks the configured features.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"{path}: tensorflow-datasets cannot be imported: {error}") from error
    name = path.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, data_dir=config.data_dir)
        if config.download:
            builder.download_and_prepare()
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: TFDS has no such dataset or version: {reason}") from error
    info = builder.info
    if not info.splits:
        raise InputError(
            f"{path}: not prepared in {builder.data_dir}; prepare it, or set tfds.download: true"
        )
    features = dict(info.features.items())
    feature = features.get(config.image)
    if not isinstance(feature, tfds.features.Image):
        raise InputError(
            f"{path}: no image feature {config.image!r} among {', '.join(features)}; name it"
            " with tfds.image"
        )
    label = features.get(config.label)
    if label is None and config.label != TFDSConfig().label:
        raise InputError(
            f"{path}: no feature {config.label!r} among {', '.join(features)}; name it with"
            " tfds.label"
        )
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    shards = tuple(
        (split, str(file), count)
        for split, facts in info.splits.items()
        for file, count in zip(facts.filepaths, facts.shard_lengths, strict=True)
    )
    odd = next((file for _, file, _ in shards if ".tfrecord" not in file), None)
    if odd:
        raise InputError(f"{path}: prepared as {odd}; prepare it as TFRecord")
    return _Prepared(shards, names)
