"""Both pages: hostile text stays text, missing parts are notes, counts and sizes hold."""

import html.parser
import json
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from components.bulk_inference.config import BulkConfig
from components.image_sources.corrections import read_corrections
from pipeline.console import Terminal
from pipeline.labelling import classify_archives
from pipeline.report.archive_report import write_archive_report
from pipeline.report.page import MOST_BYTES, ReportError
from pipeline.report.reported_run import read_reported
from pipeline.report.run_report import AskedModel, write_run_report
from pipeline.runs.artifacts import read_origins
from pipeline.runs.run import Run
from pipeline.runs.step import CACHED, Step
from tests.pipeline.report.browser import CHROMIUM, chromium
from tests.pipeline.report.conftest import CLASSES, SCRIPT, SPLITS, Images, label_archive
from trainer.storage.config import StorageConfig
from trainer.storage.files import read_bytes


class Parsed(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def assert_harmless(page: str) -> Parsed:
    """Asserts that a page runs only our script, loads nothing and describes its pictures."""
    parsed = Parsed(page)
    assert len(page.encode()) < MOST_BYTES
    assert parsed.tags.count("script") == 1 + page.count("tion/json")
    assert not [entry for entry in parsed.attributes if entry[1].startswith("on")]
    for tag, name, value in parsed.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset"):
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
    assert page.count("<img") == len(re.findall(r"<img[^>]* alt=", page))
    policy = next(value for tag, _, value in parsed.attributes if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe-inline'; script-src 'sha256-" in policy
    return parsed


def test_hostile_names_stay_text_in_the_run_report(run: Run) -> None:
    page = Path(write_run_report(run)).read_text("utf-8")
    parsed = assert_harmless(page)
    for name in CLASSES[:5]:
        assert name in parsed.text
    assert "bell\ufffd and \ufffd[31m" in parsed.text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", page)
    assert "This part could not be made" not in parsed.text
    # The verdict, with Wilson's interval of 57 in 60 (Wilson 1927).
    assert "Refused" in parsed.text
    assert "95% interval" in parsed.text.replace("\u202f", "")
    assert "86.3" in parsed.text
    assert "98.3" in parsed.text
    assert "values of <script>alert(1)</script>" in parsed.text


def test_every_part_of_the_run_is_shown(run: Run) -> None:
    parsed = Parsed(Path(write_run_report(run)).read_text("utf-8"))
    ids = {value for _, name, value in parsed.attributes if name == "id"}
    assert {
        "use", "steps", "versions", "balance", "examples", "files", "duplicates", "findings",
        "rejects", "anomalies", "curves", "unlabelled", "strip", "units", "confusion", "classes",
        "calibration", "mistakes", "uncertain", "labels", "outliers", "map", "samples",
    } <= ids  # fmt: skip
    assert parsed.tags.count("circle") == 60  # a point for each test image
    assert "3 of 4 latent dimensions are active" not in parsed.text
    assert "2 of 4 latent dimensions are active" in parsed.text
    assert "The 59,900 unlabelled images helped: 95.0 % instead of 85.0 %" in parsed.text
    assert "untrained" in parsed.text
    assert "epoch 5" in parsed.text
    assert "2 random starts, of which number 2 went on" in parsed.text
    assert "12.50 %, 9.75 %; less is better" in parsed.text
    assert f"Started from pretraining: 2 passes {SCRIPT} \ufffd[31m." in parsed.text
    assert f"Taught by 2 trainings {SCRIPT} \ufffd[31m." in parsed.text
    chosen = (
        "The search chose trainer.optimizer.learning_rate: 0.001235,"
        f" model.encoder: {SCRIPT} \ufffd[31m."
    )
    assert chosen in parsed.text
    assert "Importance-weighted bound -80.00 ± 0.50 nats per image" in parsed.text
    labels = [value for _, name, value in parsed.attributes if name == "aria-label"]
    assert any(label.startswith("Accuracy over steps") for label in labels)
    # The objective left it out.
    assert not any(label.startswith("KL divergence") for label in labels)
    # The rejected member decodes all the same, so it has a picture.
    (figure,) = re.findall(r'alt="rejected: ([^"]*)"', Path(run.root / "report.html").read_text())
    assert "&lt;script&gt;" in figure
    # Of the same member two things were found.
    assert "1 of 192 images are unusual by themselves" in parsed.text
    assert "brightest level below 100" in parsed.text
    page = (run.root / "report.html").read_text()
    assert len(re.findall(r'<img[^>]* alt="(?:blank|odd_size): ', page)) == 2


def test_a_model_that_was_asked_before_is_not_loaded_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = AskedModel(run)
    asked.ask()
    monkeypatch.setattr("tensorflow.saved_model.load", None)
    page = Path(write_run_report(run, asked=asked)).read_text("utf-8")
    assert "This part could not be made" not in page


def test_a_refused_export_is_a_refusal(run: Run) -> None:
    path = run.root / "blessing" / "verdict.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "blessed": True, "refusals": []}))
    found = {"blessed": 0, "summary": f"REFUSED: label of {CLASSES[0]}"}
    check = Step("ServingCheck", properties={"blessing": [found]})
    steps = {**run.steps, "ServingCheck": check}
    text = assert_harmless(
        Path(write_run_report(replace(run, steps=steps))).read_text("utf-8")
    ).text
    assert "✕ Refused" in text
    assert "✓ Blessed" not in text
    assert f"the export does not serve as it was trained: label of {CLASSES[0]}" in text


def test_a_step_from_the_cache_has_the_time_of_its_run(run: Run) -> None:
    cached = replace(run.steps["Trainer"], state=CACHED, seconds=0.01, origin_seconds=77.0)
    steps = {**run.steps, "Trainer": cached}
    text = Path(write_run_report(replace(run, steps=steps))).read_text("utf-8")
    assert "1 min 17 s" in text
    assert f"1 of {len(run.steps)} steps in an earlier run" in text
    assert "A step from the cache shows the time that it took" in text


def test_the_page_may_go_elsewhere(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "mine.html"
    assert write_run_report(run, str(page)) == str(page)
    assert page.stat().st_size > 10_000
    assert not (run.root / "report.html").exists()
    with pytest.raises(ReportError, match=r"give a file that you may write with --output"):
        write_run_report(run, "/proc/mine.html")


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("none", "random weights"),
        ("imagenet", "ImageNet's weights"),
        ("runs/a/pushed/1", "the weights of runs/a/pushed/1"),
    ],
)
def test_a_backbone_and_its_first_weights_are_told(run: Run, weights: str, told: str) -> None:
    config = yaml.safe_load((run.root / "config.yaml").read_text("utf-8"))
    backbone = {"name": "MobileNetV2", "weights": weights, "train": "head"}
    config["model"] = {"encoder": "backbone", "backbone": backbone}
    (run.root / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"Backbone MobileNetV2, from {told}; what learned: head" in read_origins(run)


def test_corrected_labels_and_images_taken_out_are_told(run: Run) -> None:
    assert (
        "input.labels.corrections"
        not in Parsed(Path(write_run_report(run)).read_text("utf-8")).text
    )
    path = Path(run.steps["ImageExampleGen"].outputs["examples"][0]) / "account.json"
    account = json.loads(path.read_text())
    account["labels_corrected"] = 3
    account["rejects_by_reason"]["taken_out"] = 1
    account["rejected"] += 1
    path.write_text(json.dumps(account))
    text = Parsed(Path(write_run_report(replace(run))).read_text("utf-8")).text
    assert "By input.labels.corrections 3 labels were changed and 1 image was taken out." in text
    assert f"1 of {account['images_in']} members is no usable image; 1 was taken out by" in text
    assert "1 image stands under two labels" in text


def test_every_label_is_judged_on_demand(run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load((run.root / "config.yaml").read_text("utf-8"))
    config["report"] = {"label_errors": True}
    config["input"]["labels"] = {"corrections": ["it's.csv"]}
    (run.root / "config.yaml").write_text(yaml.safe_dump(config))
    page = tmp_path / "pages" / "mine.html"
    text = assert_harmless(Path(write_run_report(run, str(page))).read_text("utf-8")).text
    ranked = pq.read_table(page.parent / "label_errors.parquet")
    assert ranked.column_names == [
        "key", "sha256", "split", "given_label", "outlier_score", "elbo", "suggested",
        "probability_given", "probability_suggested", "neighbours", "score",
    ]  # fmt: skip
    assert Counter(ranked["split"].to_pylist()) == SPLITS
    assert (np.diff(ranked["score"].to_numpy()) <= 0).all()
    doubted = ranked.filter(pc.greater(ranked["score"], 0.0)).to_pylist()
    assert 0 < len(doubted) < 192
    assert f"{len(doubted)} of 192 labels are doubted; about " in text
    assert text.count("labelled ") >= 24
    option = shlex.split(text[text.index("--set 'input.labels") :].partition("\n")[0])[1]
    assert option == """input.labels.corrections=["it's.csv", "corrections-2.csv"]"""
    found = read_corrections((str(page.parent / "label_errors.csv"),), StorageConfig())
    assert set(found.labels) == {bytes.fromhex(row["sha256"]) for row in doubted}
    assert not list(run.root.glob("label_errors*"))


def test_what_is_missing_is_a_note(run: Run) -> None:
    """Takes away one artifact after the other; the page always comes, with what is left."""
    model_run = Path(run.steps["Trainer"].outputs["model_run"][0])
    examples = Path(run.steps["ImageExampleGen"].outputs["examples"][0])
    (model_run / "history.json").unlink()
    shutil.rmtree(examples / "Split-test")
    (examples / "rejects.parquet").write_bytes(b"no Parquet")
    text = Parsed(Path(write_run_report(replace(run))).read_text("utf-8")).text
    assert "history.json is missing" in text
    assert "The split test is not there." in text
    assert "This part could not be made" in text  # the rejects
    assert "Refused" in text

    (run.root / "blessing" / "verdict.json").unlink()
    shutil.rmtree(examples)
    text = Parsed(Path(write_run_report(replace(run))).read_text("utf-8")).text
    assert "The examples of ImageExampleGen is gone" in text
    assert "The accuracy is not recorded" in text

    empty = Path(write_run_report(replace(run, steps={}))).read_text("utf-8")
    assert "Not judged" in empty
    assert "Trainer left no model." in empty


def test_a_folder_without_a_run_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"neither metadata\.sqlite of a run nor _manifest"):
        read_reported(tmp_path)


def test_the_archive_report_shows_the_count_invariant(labelled: Path) -> None:
    page = read_bytes(write_archive_report(str(labelled))).decode()
    parsed = assert_harmless(page)
    assert "This part could not be made" not in parsed.text
    law = "Count invariant: 193 members are 192 rows plus 1 rejects plus 0 duplicates"
    assert law in {value for _, name, value in parsed.attributes if name == "aria-label"}
    assert "Complete" in parsed.text
    assert SCRIPT in parsed.text
    assert "scans & co.zip" in parsed.text
    assert "“Held-out”: the labels that the model gives to images like those" in parsed.text
    manifest = json.loads((labelled / "_manifest.json").read_text())
    assert manifest["findings"] == {}
    assert "0 of 192 images are unusual by themselves" in parsed.text
    # Every row of the review list has its picture, fetched from the archive.
    assert "no picture" not in page.partition('id="rejects"')[0].partition('id="review"')[2]
    manifest = json.loads((labelled / "_manifest.json").read_text())
    manifest["counts"]["rows"] -= 1
    (labelled / "_manifest.json").write_text(json.dumps(manifest))
    assert "Counts differ" in read_bytes(write_archive_report(str(labelled))).decode()


def test_the_archive_report_does_without_archive_model_and_table(
    tmp_path: Path, model: Path, images: Images
) -> None:
    labelled = label_archive(tmp_path, model, images)
    manifest = json.loads((labelled / "_manifest.json").read_text())
    Path(manifest["config"]["input"]["paths"][0]).unlink()
    manifest["model"]["path"] = str(labelled / "gone")
    (labelled / "_manifest.json").write_text(json.dumps(manifest))
    page = read_bytes(write_archive_report(str(labelled))).decode()
    assert "no picture" in page
    assert "This part could not be made" not in page
    shutil.rmtree(labelled / "table")
    page = read_bytes(write_archive_report(str(labelled))).decode()
    assert "This part could not be made" in page
    assert "Complete" in page


def test_a_report_that_fails_never_fails_the_job(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken(output: str) -> str:
        raise RuntimeError("no room for a report")

    monkeypatch.setattr("pipeline.report.archive_report.write_archive_report", broken)
    manifest = json.loads((labelled / "_manifest.json").read_text())
    config = BulkConfig.model_validate({**manifest["config"], "output": str(labelled)})
    result = classify_archives(Terminal(), config, logs=tmp_path)
    assert result["rows"] == 192
    assert result["report"] == ""
    shown = capfd.readouterr().out
    assert len(re.findall("no report: .*no room for a report", shown)) == 1
    assert "Traceback" not in shown


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_both_pages_in_a_browser(run: Run, labelled: Path, tmp_path: Path) -> None:
    pages = {
        "archive": Path(write_archive_report(str(labelled))),
        "run": Path(write_run_report(run)),
    }
    with chromium() as browser:
        for kind, page in pages.items():
            for width in (400, 1400):
                picture = tmp_path / "screenshots" / f"{kind}-{width}.png"
                seen = browser.open(page, width=width, picture=picture, dark=width == 400)
                assert seen.scroll_width <= width
                assert seen.problems == []
                assert seen.requests == [page.as_uri()]
                assert picture.stat().st_size > 20_000
        # The map answers the keyboard: an arrow shows a picture with its description.
        press = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})"
        browser.evaluate(f"document.querySelector('.map svg').dispatchEvent({press})")
        described = browser.evaluate("document.querySelector('.map .tip').innerText")
        assert "predicted" in described
        assert browser.evaluate("document.querySelector('.map .tip').hidden") is False
