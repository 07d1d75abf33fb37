"""Learns the bounds of findings from the training images, and writes the table of findings.

`ingest.py` calls it when all images are in their splits. It reads what every part measured; the
images themselves are not read again.
"""

import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from components.image_example_gen.account import Account
from components.image_example_gen.finishing import GONE, PLACES
from components.image_example_gen.parts import measures_file, names_file
from components.image_example_gen.tables import FOUND
from components.image_findings.finding_rules import bounds_in_use, judge_images, learn_bounds
from components.image_findings.image_measures import MEASURES
from components.image_sources.config import FINDINGS, FindingsConfig
from components.image_sources.naming import printable
from components.sinks import ParquetSink
from trainer.data import features
from trainer.storage import files

FINDINGS_FILE: Final = "findings.parquet"

_MOST_LEARNED: Final = 1_000_000
"""Training images, evenly spaced, from which bounds are learned: 24 MB of measures."""


def write_findings(output: str, config: FindingsConfig, account: Account) -> None:
    """Writes `findings.parquet`, and counts the findings in the account.

    Args:
        output: The artifact's folder, with the staged files of all parts.
        config: The section `input.findings`.
        account: The account of all parts.
    """
    train = features.SPLITS.index(features.TRAIN)
    step = 1 + account.examples.total() // _MOST_LEARNED
    learned = [np.empty((0, len(MEASURES)), np.float32)]
    learned += [
        measures[places == train][::step].copy() for _, measures, places in _measured(output)
    ]
    bounds = bounds_in_use(learn_bounds(np.concatenate(learned), config.tolerance), config)
    account.finding_bounds = {
        name: known.model_dump(exclude_none=True) for name, known in bounds.items()
    }
    with files.writing(f"{output}/{FINDINGS_FILE}") as file:
        sink = ParquetSink(file, FOUND)
        for number, measures, places in _measured(output):
            found = judge_images(measures, bounds)
            found[places == GONE] = False
            rows = np.flatnonzero(found.any(axis=1))
            if len(rows):
                account.with_findings += len(rows)
                account.findings.update(
                    dict(zip(FINDINGS, found.sum(axis=0).tolist(), strict=True))
                )
                named = json.loads(files.read_bytes(f"{output}/{names_file(number)}"))
                sink.write(
                    _rows([named[row] for row in rows], found[rows], measures[rows], places[rows])
                )
        sink.close()


def _measured(output: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields number, measures and final splits of all parts, in source order."""
    for number in sorted(map(int, files.list_names(f"{output}/{PLACES}"))):
        measures, places = files.read_each(
            [f"{output}/{measures_file(number)}", f"{output}/{PLACES}/{number}"]
        )
        table = np.frombuffer(measures, np.float32).reshape(-1, len(MEASURES))
        yield number, table, np.frombuffer(places, np.uint8)


def _rows(
    named: list[tuple[str, str, str | None]],
    found: np.ndarray,
    measures: np.ndarray,
    places: np.ndarray,
) -> pa.RecordBatch:
    digests, keys, labels = zip(*named, strict=True)
    columns = [
        pa.array(digests),
        pa.array([printable(key) for key in keys]),
        pa.array([label and printable(label) for label in labels], pa.string()),
        pa.array([features.SPLITS[place] for place in places]),
        pa.array([[FINDINGS[at] for at in np.flatnonzero(row)] for row in found]),
        *(pa.array(values) for values in measures.T),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=FOUND)
