"""Judges every label of a run for its report, and writes the ranking beside it.

`run_report.py` calls it with `report.label_errors`; `components/review/label_errors.py` ranks.
"""

import codecs
import json
import posixpath
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from more_itertools import constrained_batches

from components.csv_files import format_csv_rows
from components.review.label_errors import judged_features, rank_labels
from components.tfrecord_frames import record_spans
from pipeline.report.album import Album
from pipeline.report.answers import BATCH, BATCH_BYTES, ask_batch, parse_examples
from pipeline.report.originals import Originals
from pipeline.report.page import Facts, MissingPartError, isolated
from pipeline.report.sampled_records import record_files
from pipeline.runs import artifacts
from pipeline.runs.run import Run
from serving import names
from trainer.data import features
from trainer.storage import files

_RANKING: Final = "label_errors.parquet"
_SUSPECTS: Final = "label_errors.csv"
_MOST_SUSPECTS: Final = 1_000
"""Maximum number of rows of the CSV, which people read."""
_CARDS: Final = 24
_MOST_CLASSES: Final = 100
_PLACE: Final = ("file", "begin", "size")
"""Where the record of an image is; these columns are not written."""

# The file's number, and the record with its place in the file.
_Record = tuple[int, int, bytes]


def judged_labels(run: Run, model: Any, album: Album, originals: Originals, folder: str) -> Facts:
    """Ranks the labels of the train, validation, calibration and test splits.

    Args:
        run: The run.
        model: The loaded SavedModel.
        album: Pictures of the page.
        originals: The original files of its images.
        folder: Where the ranking is written, local or remote.

    Raises:
        InputError: There are too few labels.
        MissingPartError: a split is compressed, or no image has a label.
    """
    begin = time.monotonic()
    card = artifacts.read_trained_card(run)
    examples = artifacts.examples_folder(run)
    paths = [
        (path, split)
        for split in features.LABELLED_SPLITS
        for path in record_files(examples, split)
    ]
    facts, vectors = _answers(paths, model)
    known = pa.array(card.classes, pa.string())
    label = pc.fill_null(pc.index_in(facts["given_label"], value_set=known), -1)
    found = rank_labels(facts, vectors, label.to_numpy().astype(np.int64), card.classes)
    doubted = found.rows.filter(pc.greater(found.rows["score"], 0.0))
    with files.writing(posixpath.join(folder, _RANKING)) as file:
        pq.write_table(found.rows.drop(list(_PLACE)), file, compression="zstd")
    suspects = doubted.slice(0, _MOST_SUSPECTS)
    files.write_bytes(posixpath.join(folder, _SUSPECTS), _csv(suspects))
    labels, doubts = (
        Counter({entry["values"]: entry["counts"] for entry in counts.to_pylist()})
        for counts in (pc.value_counts(table["given_label"]) for table in (found.rows, doubted))
    )
    rows = [
        {"name": name, "labels": labels[name], "doubted": doubts[name], "wrong": found.wrong[name],
         "rate": found.wrong[name] / labels[name]}
        for name in sorted(labels, key=lambda name: (-found.wrong[name] / labels[name], name))
    ]  # fmt: skip
    return {
        "labels": found.rows.num_rows,
        "unjudged": found.unjudged,
        "doubted": doubted.num_rows,
        "estimated": found.estimated,
        "rows": rows[:_MOST_CLASSES],
        "left_out": max(0, len(rows) - _MOST_CLASSES),
        "cards": _cards(suspects.slice(0, _CARDS).to_pylist(), paths, album, originals),
        "ranking": _RANKING,
        "suspects": _SUSPECTS,
        "listed": suspects.num_rows,
        "seconds": time.monotonic() - begin,
        **_correction(run),
    }


def _answers(paths: list[tuple[Path, str]], model: Any) -> tuple[pa.Table, np.ndarray]:
    """Reads the labelled images batch by batch, and keeps what the model answers.

    Returns:
        The columns for people with `_PLACE`, n rows, and float32 [n, d + K].
    """
    parts, vectors = [], []
    # The size of a record bounds that of its image.
    for batch in constrained_batches(
        _records(paths), BATCH_BYTES, BATCH, get_len=lambda record: len(record[2]), strict=False
    ):
        encoded, keys, labels, digests = parse_examples([record for _, _, record in batch])
        has_label = [at for at, label in enumerate(labels) if label]
        if not has_label:
            continue
        answer = ask_batch(model, [encoded[at] for at in has_label])
        vectors.append(judged_features(answer[names.EMBEDDING], answer[names.PROBABILITIES]))
        parts.append(
            pa.table(
                {
                    "key": [keys[at] for at in has_label],
                    "sha256": [digests[at].decode() for at in has_label],
                    "split": [paths[batch[at][0]][1] for at in has_label],
                    "given_label": [labels[at].decode("utf-8", "replace") for at in has_label],
                    "outlier_score": answer[names.OUTLIER_SCORE],
                    "elbo": answer[names.ELBO],
                    "file": pa.array([batch[at][0] for at in has_label], pa.int32()),
                    "begin": [batch[at][1] for at in has_label],
                    "size": [len(batch[at][2]) for at in has_label],
                }
            )
        )
    if not parts:
        raise MissingPartError("No image of the splits has a label.")
    return pa.concat_tables(parts), np.concatenate(vectors)


def _records(paths: list[tuple[Path, str]]) -> Iterator[_Record]:
    for number, (path, _) in enumerate(paths):
        with path.open("rb") as file:
            for begin, size in record_spans(file):
                yield number, begin, file.read(size)


def _csv(suspects: pa.Table) -> bytes:
    """Returns the suspects as a file of corrections, with the byte order mark of spreadsheets."""
    columns = ("sha256", "suggested", "given_label", "probability_suggested", "split", "key")
    head = ("sha256", "label", *columns[2:])
    rows = zip(*(suspects[name].to_pylist() for name in columns), strict=True)
    return codecs.BOM_UTF8 + format_csv_rows(head, rows)


def _correction(run: Run) -> dict[str, str]:
    """Returns a new name for the corrections, and the option that adds them to those that hold."""
    inputs = artifacts.read_run_config(run).get("input", {})
    earlier = (inputs.get("labels") or {}).get("corrections") or []
    name = f"corrections-{len(earlier) + 1}.csv"
    paths = json.dumps([*earlier, name], ensure_ascii=False)
    return {"saved": name, "option": f"--set {shlex.quote(f'input.labels.corrections={paths}')}"}


def _cards(
    rows: list[dict[str, Any]], paths: list[tuple[Path, str]], album: Album, originals: Originals
) -> list[dict[str, Any]]:
    pictures = originals.thumbnails([row["key"] for row in rows])
    cards = []
    for row in rows:
        with paths[row["file"]][0].open("rb") as file:
            file.seek(row["begin"])
            encoded, *_ = parse_examples([file.read(row["size"])])
        given, suggested = row["given_label"], row["suggested"]
        cards.append(
            {
                "picture": album.picture(pictures.get(row["key"])) or album.file(encoded[0]),
                "alt": f"{row['key']}: labelled {given}, suggested {suggested}",
                "lines": [
                    suggested,
                    f"labelled {isolated(given)}",
                    f"{row['split']}: {row['key'].rpartition('/')[2]}",
                ],
                "figure": f"{100 * row['probability_suggested']:.1f}\u202f%",
            }
        )
    return cards
