"""One self-contained HTML page: sections from templates, each guarded, nothing loaded from outside.

`run_report.py` and `archive_report.py` fill it. A section whose facts are missing, or whose making
fails, is a note on the page and never a failure of the job.
"""

import base64
import datetime
import hashlib
import importlib.metadata
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

from components.bulk_inference import ledger
from pipeline.causes import cause
from pipeline.console import duration
from pipeline.runs.verdict import MissingArtifactError
from trainer.errors import UserError

_LOG = logging.getLogger(__name__)

REPORT: Final = ledger.REPORT
"""Name of the page: in a run's root, or beside a bulk table."""
MOST_BYTES: Final = 5_000_000
"""Of a page. Pictures have budgets (`album.py`) and tables have limits that keep it far below."""

# C0 and C1 control characters, which HTML does not allow; names of members may hold them.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

Facts = Mapping[str, Any]


class MissingPartError(Exception):
    """What a section needs is not there; the message stands in its place on the page."""


class ReportError(UserError, ValueError):
    """There is nothing to report on; the message says what to do."""


@dataclass(frozen=True)
class PageSection:
    """A part of the page.

    Attributes:
        anchor: its id.
        title: its heading.
        html: its content.
    """

    anchor: str
    title: str
    html: Markup


@dataclass
class Chapter:
    """Sections under one heading.

    Attributes:
        anchor: its id.
        title: its heading.
        sections: in order.
    """

    anchor: str
    title: str
    sections: list[PageSection] = field(default_factory=list)


class Page:
    """Collects sections and renders them.

    Args:
        kind: What the page is: `Run report`.
        title: Of what: the pipeline's name.
    """

    def __init__(self, kind: str, title: str) -> None:
        self._kind = kind
        self._title = title
        self._hero = Markup("")
        self._chapters: list[Chapter] = []
        self.notes: list[str] = []

    def hero(self, template: str, make: Callable[[], Facts]) -> None:
        """Sets what stands on top."""
        self._hero = self._render("Summary", template, make)

    def chapter(self, anchor: str, title: str) -> None:
        """Opens a chapter; sections that follow go into it."""
        self._chapters.append(Chapter(anchor, title))

    def section(self, anchor: str, title: str, template: str, make: Callable[[], Facts]) -> None:
        """Adds a section to the open chapter.

        Args:
            anchor: its id on the page.
            title: its heading.
            template: file in `templates/`.
            make: gives the template's values; may raise anything.
        """
        html = self._render(title, template, make)
        self._chapters[-1].sections.append(PageSection(anchor, title, html))

    def html(self, *, left_out: int) -> bytes:
        """Renders the page, UTF-8.

        Args:
            left_out: pictures that the budget had no room for.
        """
        script = _asset("map.js")
        try:
            version = importlib.metadata.version("vaeline")
        except importlib.metadata.PackageNotFoundError:
            version = ""
        text = (
            _environment()
            .get_template("page.html")
            .render(
                kind=self._kind,
                title=self._title,
                hero=self._hero,
                chapters=[chapter for chapter in self._chapters if chapter.sections],
                style=Markup(_asset("style.css")),
                script=Markup(script),
                policy=_policy(script),
                made=datetime.datetime.now(datetime.UTC).strftime("made %Y-%m-%d %H:%M UTC"),
                version=version,
                left_out=left_out,
            )
        )
        return text.encode("utf-8", "replace")

    def _render(self, title: str, template: str, make: Callable[[], Facts]) -> Markup:
        try:
            return Markup(_environment().get_template(template).render(**make()))
        except (MissingPartError, MissingArtifactError) as missing:
            note = str(missing)
        except Exception as error:
            # A report must never cost a finished job; the log has the whole story.
            _LOG.exception("the report's part %r could not be made", title)
            note = f"This part could not be made: {cause(error)}"
        self.notes.append(f"{title}: {note}")
        return Markup('<p class="note">{}</p>').format(clean(note))


def clean(text: object) -> str:
    """Makes any text safe to stand in HTML: control characters become replacement characters."""
    return _CONTROLS.sub("\ufffd", str(text))


def isolated(text: object) -> str:
    """Text whose writing direction ends with it: FSI and PDI of Unicode's annex 9 around it."""
    return f"\u2068{text}\u2069"


def _policy(script: str) -> str:
    """The content security policy: nothing is loaded, and only our own script runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=clean, count=_count, percent=_percent, size=_size, duration=duration, fixed=_fixed
    )
    return environment


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u202f%"


def _fixed(number: float, digits: int = 3) -> str:
    return f"{number:.{digits}f}".replace("-", "\u2212")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
