"""Defines the columns of a bulk job's table: names, Arrow types, and how a batch becomes rows.

The sinks and the manifest derive their schema from the table of columns in this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.output.table_rows import class_probabilities, vectors
from components.image_sources.config import FINDINGS
from components.image_sources.naming import printable
from serving import names
from trainer.errors import InputError
from trainer.model_card import ModelCard

_TEXT: Final = pa.string()
_FEW: Final = pa.dictionary(pa.int32(), pa.string())
"""Type of strings with few distinct values per shard, each stored once."""


FINDINGS_COLUMN: Final = "findings"
"""The column that needs the bounds of a model card, and the pixels of all images."""


@dataclass(frozen=True)
class Annotated:
    """Holds one annotated batch as columns of equal length, without pixels.

    Attributes:
        source: The archive.
        keys: `archive/member`, or the path in a manifest.
        members: Member names inside the archive.
        sha256: SHA-256 of the original bytes, or of the pixels where a source holds pixels, as
            64 hexadecimal digits.
        formats: `png`, `jpeg`, ...
        widths: int32 [n], pixels, upright.
        heights: int32 [n], pixels, upright.
        given: Labels from the source; None if it gives none.
        outputs: The model's outputs by name, each [n, ...].
        findings: bool [n, len(FINDINGS)], see `finding_rules.judge_images`.
    """

    source: str
    keys: list[str]
    members: list[str]
    sha256: list[str]
    formats: list[str]
    widths: np.ndarray
    heights: np.ndarray
    given: list[str | None]
    outputs: Mapping[str, np.ndarray]
    findings: np.ndarray

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True)
class Column:
    """Defines the type and the content of one column.

    Attributes:
        type: Returns the Arrow type for a model.
        fill: Returns the array for a batch.
        about: Description of the column, for the manifest.
    """

    type: Callable[[ModelCard], pa.DataType]
    fill: Callable[[Annotated, ModelCard], pa.Array]
    about: str


def _constant(value: str, length: int) -> pa.Array:
    indices = pa.array(np.zeros(length, np.int32))
    return pa.DictionaryArray.from_arrays(indices, texts([value]))


def texts(values: Sequence[str]) -> pa.Array:
    """Returns a string array, with replacement characters for bytes that are not UTF-8."""
    try:
        return pa.array(values, _TEXT)
    except UnicodeEncodeError:
        return pa.array([printable(value) for value in values], _TEXT)


def _labels(batch: Annotated, card: ModelCard) -> pa.Array:
    indices = pa.array(batch.outputs[names.LABEL_INDEX].astype(np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array(card.classes, _TEXT))


def _few(values: list[Any]) -> pa.Array:
    return pa.array(values, _TEXT).dictionary_encode()


def _texts(values: np.ndarray) -> pa.Array:
    """Converts a string tensor, which is an array of bytes objects."""
    return pa.array(values.ravel().tolist(), pa.binary()).cast(_TEXT)


def _listed(values: pa.Array, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(values, width)


def _scalar(name: str) -> Callable[[Annotated, ModelCard], pa.Array]:
    return lambda batch, _: pa.array(batch.outputs[name].astype(np.float32, copy=False))


def _vector(name: str) -> Callable[[Annotated, ModelCard], pa.Array]:
    def fill(batch: Annotated, _: ModelCard) -> pa.Array:
        values = batch.outputs[name].astype(np.float32, copy=False)
        return _listed(pa.array(values.ravel()), values.shape[1])

    return fill


def _lists(values: pa.Array, count: int, width: int) -> pa.Array:
    offsets = pa.array(np.arange(0, count * width + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values)


def _top_k_labels(batch: Annotated, _: ModelCard) -> pa.Array:
    values = batch.outputs[names.TOP_K_LABELS]
    return _lists(_texts(values).dictionary_encode(), *values.shape)


def _top_k_probabilities(batch: Annotated, _: ModelCard) -> pa.Array:
    values = batch.outputs[names.TOP_K_PROBABILITIES]
    return _lists(pa.array(values.ravel()), *values.shape)


def _findings(batch: Annotated, _: ModelCard) -> pa.Array:
    found = np.nonzero(batch.findings)[1]
    ends = batch.findings.sum(axis=1).cumsum()
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    values = pa.DictionaryArray.from_arrays(pa.array(found.astype(np.int32)), texts(FINDINGS))
    return pa.ListArray.from_arrays(offsets, values)


def _digest(part: str) -> Column:
    return Column(
        lambda _: _FEW,
        lambda batch, card: _constant(card.answer_digests.get(part, ""), len(batch)),
        f"digest of the {part} that made the row",
    )


def _floats(width: int) -> pa.DataType:
    return pa.list_(pa.field("item", pa.float32()), width)


COLUMNS: Final[dict[str, Column]] = {
    "key": Column(
        lambda _: _TEXT,
        lambda b, _: texts(b.keys),
        "archive and member, `/` between them; the path of an image that a manifest names",
    ),
    "source": Column(lambda _: _FEW, lambda b, _: _constant(b.source, len(b)), "the archive"),
    "member": Column(lambda _: _TEXT, lambda b, _: texts(b.members), "name in the archive"),
    "sha256": Column(
        lambda _: _TEXT, lambda b, _: pa.array(b.sha256, _TEXT), "of the bytes as found"
    ),
    "format": Column(lambda _: _FEW, lambda b, _: _few(b.formats), "by content"),
    "width": Column(lambda _: pa.int32(), lambda b, _: pa.array(b.widths), "pixels"),
    "height": Column(lambda _: pa.int32(), lambda b, _: pa.array(b.heights), "pixels"),
    "given_label": Column(
        lambda _: _FEW, lambda b, _: _few(b.given), "label that the source gives; may be null"
    ),
    "label": Column(lambda _: _FEW, _labels, "the most probable class"),
    "label_index": Column(
        lambda _: pa.int32(),
        lambda b, _: pa.array(b.outputs[names.LABEL_INDEX].astype(np.int32)),
        "its number",
    ),
    "probability": Column(
        lambda _: pa.float32(), _scalar(names.PROBABILITY), "of the label, calibrated"
    ),
    "probabilities": Column(
        lambda card: _floats(len(card.classes)), _vector(names.PROBABILITIES), "of every class"
    ),
    "top_k_labels": Column(
        lambda _: pa.list_(pa.field("item", _FEW)),
        _top_k_labels,
        "the most probable classes, best first",
    ),
    "top_k_probabilities": Column(
        lambda _: pa.list_(pa.field("item", pa.float32())), _top_k_probabilities, "theirs"
    ),
    "outlier_score": Column(
        lambda _: pa.float32(),
        _scalar(names.OUTLIER_SCORE),
        "higher: less like the training images",
    ),
    "verdict": Column(
        lambda _: _FEW,
        lambda b, _: _texts(b.outputs[names.VERDICT]).dictionary_encode(),
        "accept, review or reject, by the score's thresholds",
    ),
    FINDINGS_COLUMN: Column(
        lambda _: pa.list_(pa.field("item", _FEW)),
        _findings,
        "what is unusual about the image itself: dark, blurred, blank, ...; may be empty",
    ),
    "elbo": Column(lambda _: pa.float32(), _scalar(names.ELBO), "nats per image"),
    "reconstruction_error": Column(
        lambda _: pa.float32(),
        _scalar(names.RECONSTRUCTION_ERROR),
        "mean square over pixel values in [0, 1]",
    ),
    "embedding": Column(
        lambda card: _floats(card.embedding_size), _vector(names.EMBEDDING), "posterior mean"
    ),
    "model_digest": _digest("model"),
    "transform_digest": _digest("transform"),
    "calibration_digest": _digest("calibration"),
    "code_digest": _digest("code"),
}
"""All available columns by name."""


def require_columns(columns: tuple[str, ...]) -> None:
    """Checks that the names of columns are known and unique.

    Raises:
        InputError: if one is unknown or repeated; the message names it.
    """
    for name in columns:
        if name not in COLUMNS:
            raise InputError(f"bulk.columns: no column {name!r}; there are {', '.join(COLUMNS)}")
    if len(set(columns)) != len(columns):
        raise InputError("bulk.columns: a column is named twice")


def table_schema(columns: tuple[str, ...], card: ModelCard) -> pa.Schema:
    """Returns the Arrow schema of the table.

    Args:
        columns: Names from `COLUMNS`.
        card: The model's card, which determines the lengths of vectors.
    """
    return pa.schema([pa.field(name, COLUMNS[name].type(card)) for name in columns])


def rows(batch: Annotated, schema: pa.Schema, card: ModelCard) -> pa.RecordBatch:
    """Turns an annotated batch into rows.

    Args:
        batch: The annotated batch.
        schema: The result of `table_schema`.
        card: The model's card.
    """
    arrays = [COLUMNS[name].fill(batch, card) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def known_outputs(rows: pa.RecordBatch, card: ModelCard) -> dict[str, np.ndarray]:
    """Returns the model's outputs by name, [n, ...], as far as rows have their columns.

    Args:
        rows: Rows of the table.
        card: The model's card.
    """
    table = pa.Table.from_batches([rows])
    there, classes = set(rows.schema.names), pa.array(card.classes, _TEXT)
    scalars = (names.PROBABILITY, names.OUTLIER_SCORE, names.ELBO)
    found = {name: table[name].to_numpy() for name in scalars if name in there}
    if "embedding" in there:
        found[names.EMBEDDING] = vectors(table["embedding"])
    if "label_index" in there:
        found[names.LABEL_INDEX] = table["label_index"].to_numpy()
    elif "label" in there:
        labels = table["label"].cast(_TEXT)
        found[names.LABEL_INDEX] = pc.index_in(labels, value_set=classes).to_numpy()
    if "probabilities" in there or {"top_k_labels", "top_k_probabilities"} <= there:
        found[names.PROBABILITIES] = class_probabilities(table, classes)
    return found


DUPLICATE_SCHEMA: Final = pa.schema([("key", _TEXT), ("sha256", _TEXT)])
"""Columns of the table of skipped copies; the copy that was kept has the same SHA-256."""
