"""Finds the run that a root's report describes, without TensorFlow, for `vaeline report`."""

from pathlib import Path

from pipeline.report.page import ReportError
from pipeline.runs.run import Run


def read_reported(root: Path) -> Run:
    """Reads the latest run of a root folder.

    Args:
        root: The folder given to `vaeline run --root`.

    Raises:
        ReportError: No run is recorded there.
    """
    from components.bulk_inference.output.ledger import MANIFEST
    from pipeline.runs.store import METADATA_FILE, read_runs

    if not (root / METADATA_FILE).is_file():
        raise ReportError(
            f"{root}: neither {METADATA_FILE} of a run nor {MANIFEST} of a bulk job is there; give"
            " the folder of `vaeline run --root`, or the output of `vaeline classify`"
        )
    runs = read_runs(root, latest=1)
    if not runs or not runs[-1].steps:
        raise ReportError(f"{root}: no run is recorded in {METADATA_FILE}; run `vaeline run` first")
    return runs[-1]
