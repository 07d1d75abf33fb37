"""Renders one self-contained HTML page from templates, without external resources.

`run_report.py` and `archive_report.py` fill it. A section whose facts are missing, or whose
creation fails, becomes a note on the page and never fails the job.
"""

import base64
import datetime
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

from components.bulk_inference.output import ledger
from pipeline.causes import cause
from pipeline.console import duration
from pipeline.runs.verdict import MissingArtifactError
from trainer.errors import UserError
from trainer.installed import library_versions
from trainer.storage import files

_LOG = logging.getLogger(__name__)

REPORT: Final = ledger.REPORT
"""Name of the page, in the root of a run or next to a bulk table."""
MOST_BYTES: Final = 5_000_000
"""Maximum size of a page. The budgets of pictures (`album.py`) and the limits of tables keep it far
below."""

# C0 and C1 control characters, which HTML does not allow; names of members may contain them.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

Facts = Mapping[str, Any]


class MissingPartError(Exception):
    """Reports that a section lacks its data; the message replaces the section on the page."""


class ReportError(UserError, ValueError):
    """Reports that there is nothing to report on; the message tells how to fix it."""


@dataclass(frozen=True)
class PageSection:
    """A section of the page.

    Attributes:
        anchor: id of the section.
        title: heading of the section.
        html: content of the section.
    """

    anchor: str
    title: str
    html: Markup


@dataclass
class Chapter:
    """A chapter of the page, which groups sections under one heading.

    Attributes:
        anchor: id of the chapter.
        title: heading of the chapter.
        sections: sections in order.
    """

    anchor: str
    title: str
    sections: list[PageSection] = field(default_factory=list)


class Page:
    """Collects sections and renders them.

    Args:
        kind: Kind of the page, such as `Run report`.
        title: Subject of the page, such as the pipeline's name.
    """

    def __init__(self, kind: str, title: str) -> None:
        self._kind = kind
        self._title = title
        self._hero = Markup("")
        self._chapters: list[Chapter] = []
        self.notes: list[str] = []

    def hero(self, template: str, make: Callable[[], Facts]) -> None:
        """Sets the content at the top of the page."""
        self._hero = self._render("Summary", template, make)

    def chapter(self, anchor: str, title: str) -> None:
        """Starts a chapter, to which the following sections belong."""
        self._chapters.append(Chapter(anchor, title))

    def section(self, anchor: str, title: str, template: str, make: Callable[[], Facts]) -> None:
        """Adds a section to the current chapter.

        Args:
            anchor: id of the section on the page.
            title: heading of the section.
            template: name of a file in `templates/`.
            make: returns the values of the template; may raise any exception.
        """
        html = self._render(title, template, make)
        self._chapters[-1].sections.append(PageSection(anchor, title, html))

    def html(self, *, left_out: int) -> bytes:
        """Renders the page, UTF-8.

        Args:
            left_out: number of pictures that exceeded the budget.
        """
        return render_document(
            "page.html",
            "map.js",
            kind=self._kind,
            title=self._title,
            hero=self._hero,
            chapters=[chapter for chapter in self._chapters if chapter.sections],
            left_out=left_out,
        )

    def write(self, path: str, *, left_out: int) -> None:
        """Renders the page into a file, local or remote.

        Args:
            path: The file, replaced if it exists.
            left_out: number of pictures that exceeded the budget.

        Raises:
            ReportError: The file cannot be written.
        """
        try:
            files.write_bytes(path, self.html(left_out=left_out))
        except OSError as error:
            raise ReportError(
                f"{path}: {error.strerror or error}; give a file that you may write with --output"
            ) from error

    def _render(self, title: str, template: str, make: Callable[[], Facts]) -> Markup:
        try:
            return Markup(_environment().get_template(template).render(**make()))
        except (MissingPartError, MissingArtifactError) as missing:
            note = str(missing)
        except Exception as error:
            # A report must never fail a finished job; the log has the full traceback.
            _LOG.exception("the report's part %r could not be made", title)
            note = f"This part could not be made: {cause(error)}"
        self.notes.append(f"{title}: {note}")
        return Markup('<p class="note">{}</p>').format(clean(note))


def render_document(template: str, script: str, **facts: Any) -> bytes:
    """Renders a self-contained page, UTF-8.

    Args:
        template: Name of a file in `templates/`, a whole document.
        script: Name of the only script that may run.
        facts: Values of the template.
    """
    code = _asset(script)
    text = (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_asset("style.css")),
            script=Markup(code),
            policy=_policy(code),
            made=datetime.datetime.now(datetime.UTC).strftime("made %Y-%m-%d %H:%M UTC"),
            version=library_versions(["vaeline"])["vaeline"],
            **facts,
        )
    )
    return text.encode("utf-8", "replace")


def clean(text: object) -> str:
    """Replaces control characters, which HTML does not allow, with replacement characters."""
    return _CONTROLS.sub("\ufffd", str(text))


def isolated(text: object) -> str:
    """Isolates the writing direction of a text with FSI and PDI (Unicode annex 9)."""
    return f"\u2068{text}\u2069"


def _policy(script: str) -> str:
    """Returns the content security policy: nothing is loaded, and only our own script runs."""
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
