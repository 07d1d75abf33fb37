"""Writes `report.html` next to a bulk job's table, for `vaeline classify` and `report`."""

import json
import logging
import posixpath
import time
from collections.abc import Callable
from functools import partial

from components.bulk_inference.output import ledger
from pipeline.report import archive_sections as sections
from pipeline.report.album import Album
from pipeline.report.archive_sections import Archive
from pipeline.report.page import REPORT, Facts, Page, ReportError
from trainer.storage import files

_LOG = logging.getLogger(__name__)


def is_archive_output(folder: str) -> bool:
    """Tells whether a folder is the output of a finished bulk job."""
    return files.exists(posixpath.join(folder, ledger.MANIFEST))


def write_archive_report(output: str, path: str = "") -> str:
    """Writes the report of a finished bulk job.

    Args:
        output: Output folder of the job, local or remote.
        path: The path of the page; `report.html` in that folder by default.

    Returns:
        The path of the page.

    Raises:
        ReportError: the folder has no finished job, or the page cannot be written.
    """
    begin = time.monotonic()
    try:
        content = files.read_bytes(posixpath.join(output, ledger.MANIFEST))
        archive = Archive(output, json.loads(content))
    except (OSError, ValueError) as error:
        raise ReportError(f"{output}: no {ledger.MANIFEST} of a finished job: {error}") from error
    page = Page("Archive report", _title(archive))
    album = Album()
    page.hero("archive_hero.html", partial(sections.overview, archive))

    def add(anchor: str, title: str, template: str, make: Callable[[], Facts]) -> None:
        page.section(anchor, title, template, make)

    page.chapter("labels", "Labels")
    add("mix", "Label mix", "mix.html", partial(sections.labels, archive))
    add("spread", "Confidence and outlier score", "distributions.html",
        partial(sections.distributions, archive))  # fmt: skip
    page.chapter("doubt", "What to look at")
    add("review", "Review list", "review.html", partial(sections.review, archive, album))
    add("outlying", "Highest outlier scores", "outlying.html",
        partial(sections.outlying, archive, album))  # fmt: skip
    add("given", "Against the given labels", "given.html", partial(sections.given, archive, album))
    add("verdicts", "Examples by verdict", "verdicts.html",
        partial(sections.verdicts, archive, album))  # fmt: skip
    add("findings", "Findings", "findings.html", partial(sections.findings, archive, album))
    page.chapter("difference", "Against the training data")
    add("drift", "Drift", "drift.html", partial(sections.drift, archive))
    page.chapter("rest", "The job")
    add("rejects", "Rejects", "rejects.html", partial(sections.rejects, archive, album))
    add("job", "Archives, model and table", "job.html", partial(sections.job, archive))
    path = path or posixpath.join(output, REPORT)
    page.write(path, left_out=album.left_out)
    _LOG.info("report in %.1f s: %s", time.monotonic() - begin, path)
    for note in page.notes:
        _LOG.info("report: %s", note)
    return path


def _title(archive: Archive) -> str:
    sources = sorted(archive.manifest["sources"])
    if len(sources) == 1:
        return posixpath.basename(sources[0].rstrip("/")) or sources[0]
    return f"{len(sources)} archives"
