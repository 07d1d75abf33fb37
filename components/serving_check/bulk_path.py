"""Runs the golden images through the bulk job's own reading, checking, decoding and model calls.

It uses all of the job except Beam, which only distributes units.
"""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from components.bulk_inference.annotation.batch_rows import annotate_batch
from components.bulk_inference.annotation.handler import Annotator
from components.bulk_inference.config import BulkJob
from components.bulk_inference.model_card import read_card
from components.bulk_inference.planning.reuse import EarlierRows
from components.image_sources.config import InputConfig
from components.image_sources.sources import ImageSource
from components.unit_engine import work_through
from serving import names
from serving.golden import GoldenSet

_COLUMNS = ("member", names.EMBEDDING, names.ELBO, names.OUTLIER_SCORE, names.PROBABILITY)


def answer_as_bulk_job(model: str, golden: GoldenSet, folder: Path) -> dict[str, np.ndarray]:
    """Labels the golden images as a bulk job labels an archive.

    Args:
        model: Folder of the SavedModel.
        golden: The images, which are written to a zip.
        folder: The folder in which the zip is created.

    Returns:
        float32 [n, ...] by output name: embedding, elbo, outlier_score, and the probability of
        the best class.

    Raises:
        ValueError: if the job rejects an image; the message says which and why.
    """
    archive = folder / "golden.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for place, file in enumerate(golden.files):
            # Formats are detected by content, so any image suffix will do.
            writer.writestr(f"{place:04d}.png", file)
    job = BulkJob(
        input=InputConfig(paths=(str(archive),)),
        model=model,
        output=str(folder / "table"),
        columns=_COLUMNS,
    )
    annotator = Annotator(
        read_card(model), workers=1, max_images=job.batch.max_images, columns=job.columns
    )
    annotate = partial(
        annotate_batch,
        skip=frozenset(),
        config=job,
        annotator=annotator,
        earlier=EarlierRows(job.output, ()),
    )
    found: dict[str, dict[str, object]] = {}
    source = ImageSource(job.input)
    for unit in source.units():
        most = job.batch.max_images
        for result in work_through(source, unit, annotate, threads=1, most=most):
            for reject in result.rejects:
                raise ValueError(
                    f"the bulk job rejects golden image {int(Path(reject.member).stem)} as "
                    f"{reject.reason}: {reject.detail}"
                )
            rows = result.rows.to_pylist() if result.rows is not None else []
            found |= {str(row["member"]): row for row in rows}
    if len(found) != len(golden):
        raise ValueError(f"the bulk job gives {len(found)} rows for {len(golden)} golden images")
    ordered = [found[member] for member in sorted(found)]
    return {name: np.array([row[name] for row in ordered], np.float32) for name in _COLUMNS[1:]}
