"""The page of a review queue: harmless, complete, and answered by keys in a real browser."""

import csv
import io
import json
import re
import time
from pathlib import Path

import pytest

from components.review.answers import apply_answers
from components.review.queue import create_queue
from pipeline.report.review_page import write_review_page
from tests.limits import HANG_SECS
from tests.pipeline.report.browser import CHROMIUM, Browser, chromium
from tests.pipeline.report.test_reports import assert_harmless

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def test_every_listed_image_is_on_the_page(labelled: Path) -> None:
    facts, rows = create_queue(str(labelled), risk=0.05, most=12)
    page = write_review_page(str(labelled), facts, rows)
    text = Path(page.path).read_text("utf-8")
    parsed = assert_harmless(text)
    assert page.shown == len(rows) == 12
    data = json.loads(next(iter(_DATA.findall(text))))
    assert [row["key"] for row in data["rows"]] == [row.key for row in rows]
    assert all(row["picture"]["uri"].startswith("data:image/") for row in data["rows"])
    assert facts.no_promise in parsed.text
    assert "This page holds" not in parsed.text


def test_a_page_says_what_it_leaves_out(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.review_page._MOST", 5)
    facts, rows = create_queue(str(labelled), risk=0.05, most=12)
    page = write_review_page(str(labelled), facts, rows)
    assert page.shown == 5
    parsed = assert_harmless(Path(page.path).read_text("utf-8"))
    assert "This page holds the first 5 of the 12 images in queue.csv." in parsed.text


def press(browser: Browser, key: str) -> None:
    event = f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}})"
    browser.evaluate(f"document.body.dispatchEvent({event})")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_keys_answer_and_the_saved_file_is_applied(labelled: Path, tmp_path: Path) -> None:
    facts, rows = create_queue(str(labelled), risk=0.05, most=12)
    page = Path(write_review_page(str(labelled), facts, rows).path)
    with chromium() as browser:
        for width in (400, 1400):
            picture = tmp_path / "screenshots" / f"review-{width}.png"
            seen = browser.open(page, width=width, picture=picture, dark=width == 400)
            assert seen.scroll_width <= width
            assert seen.problems == []
            assert seen.requests == [page.as_uri()]
        classes = browser.evaluate(
            "JSON.parse(document.getElementById('data').textContent).classes"
        )
        browser.evaluate("document.getElementById('reviewer').value = 'Zoë \"Z\", PhD'")
        press(browser, "Enter")  # the model is right
        press(browser, "2")  # the second class
        press(browser, "-")  # none of them
        press(browser, "3")
        press(browser, "ArrowLeft")
        press(browser, "Backspace")  # the fourth answer is taken back
        assert browser.evaluate("document.getElementById('place').textContent") == "4 of 12"
        assert "3 of 12" in browser.evaluate("document.getElementById('state').textContent")
        # The file that the button hands to the browser.
        browser.evaluate(
            "window.Blob = class { constructor(parts) { window.csv = parts.join(''); } };"
            " URL.createObjectURL = () => 'data:,'; document.getElementById('save').click()"
        )
        saved = browser.evaluate("window.csv")
        file = tmp_path / "answers.csv"
        file.write_text(saved, "utf-8", newline="")
        # A reload keeps the answers and goes on with the first open image.
        # Chromium hands what a page has stored to the next one with a delay.
        deadline = time.monotonic() + HANG_SECS
        place = ""
        while place != "4 of 12" and time.monotonic() < deadline:
            browser.open(page, width=1400, picture=tmp_path / "screenshots" / "again.png")
            place = browser.evaluate("document.getElementById('place').textContent")
        assert place == "4 of 12"
    found = list(csv.DictReader(io.StringIO(saved.removeprefix("\ufeff"))))
    assert [row["key"] for row in found] == [row.key for row in rows]
    assert [row["answer"] for row in found] == [rows[0].label, classes[1], "-"] + [""] * 9
    assert {row["reviewer"] for row in found[:3]} == {'Zoë "Z", PhD'}
    result = apply_answers(str(labelled), [str(file)])
    assert (result.answered, result.not_usable) == (3, 1)
    assert result.missing == 0
