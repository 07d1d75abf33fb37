"""Writes the page on which people answer a review queue with keys.

`vaeline review create` calls it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from components.bulk_inference.output.ledger import REVIEW
from components.review.labelled_archive import LabelledArchive
from components.review.queue_file import QUEUE_COLUMNS, QUEUE_FILE, QueueFacts, QueueRow
from pipeline.report.album import Album
from pipeline.report.page import MOST_BYTES, clean, render_document

_PAGE: Final = f"{REVIEW}/queue.html"
_MOST: Final = 2_000
"""Largest number of images on the page; their pictures usually fill it earlier."""
_SIDE: Final = 128
_SECONDS: Final = 60.0
"""Time limit for fetching the pictures from the archives."""


@dataclass(frozen=True)
class ReviewPage:
    """Gives the files of a queue.

    Attributes:
        path: The page.
        queue: The CSV.
        shown: Images on the page, the first ones of the CSV.
    """

    path: str
    queue: str
    shown: int


def write_review_page(output: str, facts: QueueFacts, rows: list[QueueRow]) -> ReviewPage:
    """Writes `review/queue.html`, one self-contained file that loads nothing.

    Args:
        output: The folder of the bulk job.
        facts: What the queue was made for.
        rows: The images of the queue.
    """
    archive = LabelledArchive(output)
    rows = rows[:_MOST]
    pictures = archive.images(((row.source, row.member) for row in rows), seconds=_SECONDS)
    album = Album(budget=MOST_BYTES * 4 // 5)
    shown: list[dict[str, Any]] = []
    for row in rows:
        picture = album.file(pictures.get((row.source, row.member)), _SIDE)
        if album.left_out:
            break
        shown.append({**asdict(row), "picture": asdict(picture) if picture else None})
    path, queue = archive.ledger.path(_PAGE), archive.ledger.path(QUEUE_FILE)
    classes = archive.manifest["model"]["classes"]
    page = render_document(
        "review_queue.html",
        "review_queue.js",
        line=clean(facts.line()),
        listed=sum(facts.listed.values()),
        shown=len(shown),
        data={
            "identity": f"{facts.table_written} {output}",
            "columns": QUEUE_COLUMNS,
            "classes": classes,
            "rows": shown,
        },
    )
    archive.ledger.write(_PAGE, page)
    return ReviewPage(path, queue, len(shown))
