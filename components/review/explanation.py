"""Explains one row of a table: fetches the image, computes the row again, finds its neighbours.

`vaeline explain` calls it.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.bulk_inference.annotation.batch_rows import annotate_batch
from components.bulk_inference.annotation.handler import shared_annotator
from components.bulk_inference.config import BulkConfig, BulkJob
from components.bulk_inference.output.job_manifest import LIBRARIES
from components.bulk_inference.planning.reuse import EarlierRows
from components.image_sources.batch import MemberBatch
from components.image_sources.pick import pick_one
from components.review.labelled_archive import LabelledArchive
from serving.tolerance import FLOATS, differences
from trainer.errors import InputError
from trainer.installed import library_versions

_OF_NAME: Final = frozenset({"given_label"})
"""Columns that depend on the whole archive's names and not on the image."""
_NEIGHBOURS: Final = 8
_SECONDS: Final = 600.0
"""Time limit for finding the image in an archive that can only be read from its start."""


@dataclass(frozen=True)
class Cell:
    """Compares one column of the row.

    Attributes:
        column: Its name.
        recorded: The value in the table.
        now: The value that was computed again.
        difference: Largest difference of floats, as `serving.tolerance.differences`; 0 for equal
            texts and whole numbers, infinite for others.
    """

    column: str
    recorded: Any
    now: Any
    difference: float

    @property
    def is_same(self) -> bool:
        """Returns whether both agree within the numeric contract (docs/numerics.md)."""
        return self.difference <= FLOATS


@dataclass(frozen=True)
class Explanation:
    """Holds all that is known about one row.

    Attributes:
        row: The row of the table.
        cells: Its columns, recorded and computed again; empty if the image is a reject now.
        fault: Why the image cannot be annotated now; empty if it can.
        content: The image file.
        libraries: Versions of libraries by name: when the table was made, and now.
        neighbours: The rows with the nearest embeddings, nearest first, with their `distance`.
    """

    row: dict[str, Any]
    cells: list[Cell]
    fault: str
    content: bytes
    libraries: dict[str, tuple[str, str]]
    neighbours: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Returns whether the row comes out the same."""
        return not self.fault and all(cell.is_same for cell in self.cells)

    def line(self) -> str:
        """Returns the result in one sentence."""
        if self.fault:
            return f"the image is a reject now: {self.fault}"
        changed = [cell.column for cell in self.cells if not cell.is_same]
        if changed:
            return f"comes out otherwise now: {', '.join(changed)}"
        largest = max((cell.difference for cell in self.cells), default=0.0)
        return f"comes out the same{f', floats within {largest:.1g}' if largest else ''}"


def explain_row(output: str, key: str) -> Explanation:
    """Explains the row of an image.

    Args:
        output: The folder of a finished bulk job.
        key: The image's key, or the end of it, if only one row's ends so.

    Raises:
        InputError: There is no such row, or its image or its model is gone.
    """
    archive = LabelledArchive(output)
    row = _find(archive, key)
    if not row.get("source") or "member" not in row:
        raise InputError(
            f"{output}: the table has no columns source and member, which say where the image is;"
            " classify with them (bulk.columns)"
        )
    card = archive.card
    job = BulkJob.of(BulkConfig.model_validate(archive.manifest["config"]))
    batch = pick_one(job.input, row["source"], row["member"], seconds=_SECONDS)
    if batch is None:
        raise InputError(
            f"{row['source']}: {row['member']} is not there any more, or could not be read; bring"
            " the archive back to its place"
        )
    annotator = shared_annotator(
        card, workers=1, max_images=job.batch.max_images, columns=job.columns
    )
    result = annotate_batch(batch, frozenset(), job, annotator, EarlierRows(output, ()))
    fault = ", ".join(f"{reject.reason}: {reject.detail}" for reject in result.rejects)
    now = result.rows.to_pylist()[0] if result.rows is not None else {}
    recorded, installed = archive.manifest.get("libraries", {}), library_versions(LIBRARIES)
    return Explanation(
        row=row,
        cells=[
            _compare(name, row[name], now[name]) for name in row if name in now.keys() - _OF_NAME
        ],
        fault=fault,
        content=_content(batch),
        libraries={name: (recorded.get(name, ""), installed[name]) for name in LIBRARIES},
        neighbours=_nearest(archive, row) if row.get("embedding") is not None else [],
    )


def _find(archive: LabelledArchive, key: str) -> dict[str, Any]:
    ends: list[dict[str, Any]] = []
    for shard in archive.shards:
        for batch in archive.rows(shard):
            keys = batch.column(batch.schema.get_field_index("key"))
            chosen = pc.ends_with(keys, key)
            found = pa.Table.from_batches([batch]).filter(chosen).to_pylist()
            exact = [row for row in found if row["key"] == key]
            if exact:
                return exact[0]
            ends += [row for row in found if row["key"].endswith(f"/{key}")]
            if len(ends) > 1:
                raise InputError(
                    f"{key}: the end of several keys, such as {ends[0]['key']} and"
                    f" {ends[1]['key']}; give the whole key"
                )
    if not ends:
        raise InputError(f"{archive.ledger.output}: no row has the key {key}")
    return ends[0]


def _compare(column: str, recorded: Any, now: Any) -> Cell:
    values = np.asarray(recorded), np.asarray(now)
    if values[0].dtype.kind == values[1].dtype.kind == "f" and values[0].shape == values[1].shape:
        return Cell(column, recorded, now, float(differences(values[1], values[0]).max(initial=0)))
    # CSV and JSON Lines keep vectors as texts; their numbers are in the Parquet table only.
    is_text = isinstance(recorded, str) and isinstance(now, list)
    return Cell(column, recorded, now, 0.0 if is_text or recorded == now else np.inf)


def _content(batch: MemberBatch) -> bytes:
    return batch.data[0] if batch.data else b""


def _nearest(archive: LabelledArchive, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Finds the nearest embeddings in the table, by Euclidean distance."""
    if isinstance(row["embedding"], str):
        return []
    target = np.asarray(row["embedding"], np.float32)
    best: list[tuple[float, int, dict[str, Any]]] = []
    number = 0
    names = ("key", "source", "member", "label", "given_label", "probability", "embedding")
    for shard in archive.shards:
        for batch in archive.rows(shard, *names):
            table = pa.Table.from_batches([batch])
            vectors = pc.list_flatten(table["embedding"]).to_numpy().reshape(len(table), -1)
            distances = np.linalg.norm(vectors - target, axis=1)
            distances[np.asarray(pc.equal(table["key"], row["key"]))] = np.inf
            for place in np.argsort(distances, kind="stable")[:_NEIGHBOURS].tolist():
                if np.isfinite(distances[place]):
                    entry = (-float(distances[place]), -(number + place), place)
                    if len(best) < _NEIGHBOURS or entry[:2] > best[0][:2]:
                        found = table.slice(place, 1).drop(["embedding"]).to_pylist()[0]
                        item = (entry[0], entry[1], {**found, "distance": -entry[0]})
                        keep = heapq.heappush if len(best) < _NEIGHBOURS else heapq.heappushpop
                        keep(best, item)
            number += len(table)
    return [found for _, _, found in sorted(best, key=lambda entry: entry[:2], reverse=True)]
