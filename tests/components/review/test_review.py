"""A review from a real table: what is listed, what answers change, and what is refused."""

import csv
import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from sklearn.datasets import load_digits

from components.bulk_inference.annotation.handler import Annotator
from components.bulk_inference.annotation.schema import COLUMNS
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.bulk_inference.model_card import read_card
from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig, UnitsConfig
from components.image_sources.sources import ImageSource
from components.review.answer_files import class_of
from components.review.answers import apply_answers
from components.review.promise import percent
from components.review.queue import create_queue
from components.review.queue_file import AUDIT, UNCERTAIN, VERDICT
from tests.components.bulk_inference.archives import png, write_zip
from tests.components.bulk_inference.model_fixture import copy_model, summarise
from trainer.errors import InputError
from trainer.quality.held_out import (
    HELD_OUT_FILE,
    HeldOutAnswers,
    read_held_out,
    write_held_out,
)

COUNT = 400
MakeTable = Callable[..., Path]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    digits = np.minimum(load_digits().images * 16, 255).astype(np.uint8)[..., np.newaxis]
    return digits[np.random.default_rng(0).permutation(len(digits))]


@pytest.fixture(scope="module")
def model(model: Path, tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    """It has summaries, and answers on 1,397 images of which the least certain are wrong."""
    card = read_card(str(model))
    outputs, _ = Annotator(card, workers=2, max_images=512, columns=tuple(COLUMNS)).annotate_pixels(
        images
    )
    summaries = summarise(images, outputs)
    folder = copy_model(model, tmp_path_factory.mktemp("summarised") / "1", summaries=summaries)
    label = outputs["label_index"][COUNT:].astype(np.int32)
    probability = outputs["probability"][COUNT:]
    given = np.where(probability < np.quantile(probability, 0.1), (label + 1) % 10, label)
    answers = HeldOutAnswers(label, given, probability, outputs["outlier_score"][COUNT:])
    write_held_out(answers, str(folder / HELD_OUT_FILE))
    return folder


def classify(model: Path, folder: Path, images: np.ndarray, **options: Any) -> Path:
    """Classifies images of a zip in a folder, in units of 64, and a zip without any image."""
    members = {f"{at:04d}.png": png(image[..., 0]) for at, image in enumerate(images)}
    archive = write_zip(folder / "images.zip", members)
    empty = write_zip(folder / "none.zip", {"1.png": b"text"})
    units = UnitsConfig(members=64, batch=32)
    inputs = InputConfig(paths=(str(archive), str(empty)), units=units)
    output = folder / "out"
    settings = {"model": str(model), "output": str(output), "input": inputs, **options}
    assert run_bulk(BulkConfig(**settings)).rows == len(images)
    return output


@pytest.fixture(scope="module")
def table(model: Path, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(model, tmp_path_factory.mktemp("table"), images[:COUNT])


@pytest.fixture
def make_table(model: Path, images: np.ndarray, table: Path, tmp_path: Path) -> MakeTable:
    """Classifies 400 images; those of `table` are copied."""

    def make(shown: np.ndarray | None = None, **options: Any) -> Path:
        if shown is None and not options:
            return shutil.copytree(table, tmp_path / "out")
        return classify(model, tmp_path, images[:COUNT] if shown is None else shown, **options)

    return make


def read_queue(output: Path) -> list[dict[str, str]]:
    with (output / "review/queue.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def answer(output: Path, answers: dict[str, str], name: str = "answers.csv", **form: Any) -> str:
    """Fills in a copy of the queue, as a spreadsheet would save it."""
    # It takes members such as `007` for numbers.
    changed = {"member": "7"}
    rows = [{**row, **changed, "answer": answers.get(row["key"], "")} for row in read_queue(output)]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=form.get("delimiter", ","))
    writer.writeheader()
    writer.writerows(rows)
    path = output.parent / name
    path.write_text(text.getvalue(), encoding=form.get("encoding", "utf-8"), newline="")
    return str(path)


def read_table(folder: Path) -> pa.Table:
    return ds.dataset(sorted(map(str, folder.rglob("*.parquet")))).to_table()


def test_each_image_is_listed_or_accepted(make_table: MakeTable) -> None:
    output = make_table()
    facts, rows = create_queue(str(output), risk=0.05)
    table = {row["key"]: row for row in read_table(output / "table").to_pylist()}
    assert not facts.no_promise
    assert 0 < facts.review < COUNT
    assert facts.review + facts.accepted == facts.images == COUNT
    assert [row.key for row in rows] == [row["key"] for row in read_queue(output)]
    listed = {row.key for row in rows}
    assert len(listed) == facts.review
    assert facts.threshold is not None
    for key, row in table.items():
        refused = row["verdict"] == "reject"
        assert (key in listed) == (refused or row["probability"] < facts.threshold), key
    assert {row.why for row in rows if table[row.key]["verdict"] == "reject"} <= {VERDICT}
    doubts = [row.probability for row in rows if row.why == UNCERTAIN]
    # Within a cell of confidence rows keep the order of the archive.
    assert doubts == pytest.approx(sorted(doubts), rel=0.01)
    assert f"review these {facts.review:,} images" in facts.line()
    assert "at least 95 % correct with 95 % confidence" in facts.line()


@pytest.mark.parametrize("table_format", ["csv", "jsonl", "npy"])
def test_every_readable_format_gives_the_same_queue(
    make_table: MakeTable, tmp_path: Path, table_format: str
) -> None:
    expected, rows = create_queue(str(make_table()), risk=0.05)
    shutil.rmtree(tmp_path / "out")
    output = make_table(format=table_format)
    facts, found = create_queue(str(output), risk=0.05)
    assert dataclasses.replace(facts, table_written="") == dataclasses.replace(
        expected, table_written=""
    )
    assert [row.member for row in found] == [row.member for row in rows]
    result = apply_answers(str(output), [answer(output, {found[0].key: "3"})])
    assert result.answered == 1
    reviewed = {row["key"]: row for row in read_table(output / "reviewed/table").to_pylist()}
    assert reviewed[found[0].key]["final_label"] == "3"


def test_the_list_is_bounded(make_table: MakeTable) -> None:
    output = str(make_table())
    everything, all_rows = create_queue(output, risk=0.05)
    assert create_queue(output, risk=0.05, most=0)[1] == []
    facts, rows = create_queue(output, risk=0.05, most=5)
    assert [row.key for row in rows] == [row.key for row in all_rows[:5]]
    assert (facts.review, facts.accepted) == (everything.review, everything.accepted)
    assert "of which the 5 most doubtful are listed" in facts.line()
    unsure = dataclasses.replace(facts, no_promise="too few")
    assert unsure.line() == "no promise: too few; the 5 images listed are the most doubtful ones"
    unsure = dataclasses.replace(unsure, listed={UNCERTAIN: unsure.images})
    assert unsure.line().endswith(f"; all {COUNT} images are listed, the most doubtful first")
    path = answer(Path(output), {rows[0].key: rows[0].label})
    result = apply_answers(output, [path])
    assert f"the promise takes {facts.review - 1:,} more answers" in result.line
    with pytest.raises(InputError, match=r"queue\.csv: no answers; fill in the column `answer`"):
        apply_answers(output, [])


def test_an_audit_is_drawn_from_the_accepted(make_table: MakeTable) -> None:
    output = str(make_table())
    plain, doubtful = create_queue(output, risk=0.05)
    facts, rows = create_queue(output, risk=0.05, audit=40)
    audited = [row.key for row in rows if row.why == AUDIT]
    assert len(audited) == len(set(audited)) == 40
    assert not {row.key for row in doubtful} & set(audited)
    assert facts.accepted == plain.accepted
    # Spread over the archive and the list, not taken from their starts.
    assert min(audited) < "images.zip/0080" or any("/00" in key for key in audited)
    assert len({key[-8:-6] for key in audited}) == 4
    assert rows[-1].why == AUDIT


def test_drift_switches_the_promise_off_and_an_audit_makes_another(
    make_table: MakeTable, images: np.ndarray
) -> None:
    blurred = np.stack([cv2.blur(image, (5, 5))[..., np.newaxis] for image in images[:COUNT]])
    output = make_table(blurred)
    facts, rows = create_queue(str(output), risk=0.05, most=20, audit=100)
    assert "the archive differs from the training data (" in facts.no_promise
    assert facts.threshold is None
    assert "no promise: " in facts.line()
    assert sum(row.why == AUDIT for row in rows) == 100
    given = {row.key: row.label for row in rows}
    wrong = [row.key for row in rows if row.why == AUDIT][:2]
    result = apply_answers(str(output), [answer(output, {**given, **dict.fromkeys(wrong, "-")})])
    assert (result.audited, result.audit_wrong) == (100, 2)
    assert result.most_wrong is not None
    # 2 of 100 leave at most 6.2 % of all 380 by the binomial bound, which is a little larger.
    assert 4 < result.most_wrong + 2 <= 0.062 * 380
    assert "by the audit (2 of 100 wrong), the other 280 labels are at least" in result.line
    assert "nothing is promised" not in result.line


def test_an_audit_with_gaps_says_nothing(make_table: MakeTable) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05, audit=10)
    answers = {row.key: row.label for row in rows if row.why == AUDIT}
    answers.popitem()
    result = apply_answers(str(output), [answer(output, answers)])
    assert result.most_wrong is None
    assert "the audit takes 1 more answers" in result.line


def test_a_model_without_held_out_answers_promises_nothing(
    make_table: MakeTable, model: Path
) -> None:
    output = make_table()
    file = model / HELD_OUT_FILE
    content = file.read_bytes()
    try:
        file.unlink()
        facts, rows = create_queue(str(output), risk=0.05, most=7)
        assert "no answers on a calibration split" in facts.no_promise
        assert len(rows) == 7
        file.write_bytes(content[: len(content) // 2])
        facts, _ = create_queue(str(output), risk=0.05)
        assert "not readable" in facts.no_promise
    finally:
        file.write_bytes(content)
    assert len(read_held_out(str(file))) == 1_397


def test_without_the_drift_check_nothing_is_promised(make_table: MakeTable) -> None:
    output = make_table(drift={"enabled": False})
    facts, _ = create_queue(str(output), risk=0.05)
    assert facts.no_promise == "the job ran without the drift check (bulk.drift.enabled)"


def test_the_promise_holds_for_all_accepted_labels_and_for_less_after_an_audit(
    make_table: MakeTable,
) -> None:
    output = make_table()
    facts, rows = create_queue(str(output), risk=0.05, audit=100)
    given = {row.key: row.label for row in rows}
    result = apply_answers(str(output), [answer(output, given)])
    left = facts.accepted - 100
    share = percent(1 - int(0.05 * facts.accepted) / left)
    assert f"the {left:,} labels that nobody reviewed are at least {share} correct" in result.line
    wrong = [row.key for row in rows if row.why == AUDIT][:50]
    refuted = answer(output, {**given, **dict.fromkeys(wrong, "-")}, name="refuted.csv")
    line = apply_answers(str(output), [refuted]).line
    assert line.startswith("the audit refutes the promise of 95 %; by the audit (50 of 100 wrong)")


def test_answers_reach_the_table_and_the_next_training(make_table: MakeTable, table: Path) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    first, second, third = (row.key for row in rows[:3])
    before = {f: f.read_bytes() for f in (output / "table").rglob("*.parquet")}
    other = "5" if rows[0].label != "5" else "6"
    answers = {first: other, second: "-", third: rows[2].label}
    # As pandas writes the numbers of a column with gaps.
    written = {**answers, first: f"{other}.0"}
    result = apply_answers(str(output), [answer(output, written)], reviewer="ada")
    assert (result.answered, result.changed, result.not_usable) == (3, 2, 1)
    assert result.unanswered == {
        why: count
        for why in (UNCERTAIN, VERDICT)
        if (count := sum(row.why == why for row in rows[3:]))
    }
    assert result.missing == 0
    assert {f: f.read_bytes() for f in before} == before
    applied = read_table(output / "reviewed/table")
    assert applied.num_rows == COUNT
    for row in applied.to_pylist():
        reviewed = row["key"] in answers
        expected = answers.get(row["key"], row["label"])
        assert row["final_label"] == (None if expected == "-" else expected)
        assert row["label_from"] == ("review" if reviewed else "model")
        assert row["reviewer"] == ("ada" if reviewed else None)
    # The images with a label can be read as the next training's input.
    source = ImageSource(InputConfig(paths=(result.manifest,)))
    batches = [batch for unit in source.units() for batch in source.read(unit)]
    found = {
        data: label
        for batch in batches
        for data, label in zip(batch.data, batch.labels, strict=True)
    }
    with zipfile.ZipFile(table.parent / "images.zip") as archive:
        content = {key: archive.read(key.rpartition("/")[2]) for key in (first, third)}
    assert found == {content[first]: other, content[third]: rows[2].label}


def test_corrections_reach_the_ingest_of_the_archive_itself(
    make_table: MakeTable, table: Path, tmp_path: Path
) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.001, most=81)
    answers = {row.key: "56"[place % 2] for place, row in enumerate(rows)} | {rows[0].key: "-"}
    result = apply_answers(str(output), [answer(output, answers)])
    config = InputConfig.model_validate(
        {"paths": str(table.parent / "images.zip"), "labels": {"corrections": result.corrections}}
    )
    (tmp_path / "ingested").mkdir()
    account = ingest(config, str(tmp_path / "ingested"), lambda: beam.Pipeline(FnApiRunner()))
    assert account.corrected == 80
    assert account.rejected == {"taken_out": 1}
    assert account.class_totals() == {"5": 40, "6": 40}
    with pytest.raises(InputError, match=r"bulk\.input\.labels\.corrections: only ingest corrects"):
        run_bulk(BulkConfig(model="m", output=str(tmp_path / "no"), input=config))


def test_two_people_share_a_queue(make_table: MakeTable) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    one = answer(output, {rows[0].key: "1", rows[1].key: "2"}, "one.csv")
    # As a German Excel saves it.
    two = answer(
        output,
        {rows[1].key: "2.0", rows[2].key: "3"},
        "two.csv",
        delimiter=";",
        encoding="utf-8-sig",
    )
    assert apply_answers(str(output), [one, two]).answered == 3
    three = answer(output, {rows[1].key: "4"}, "three.csv")
    with pytest.raises(InputError, match=r"three.csv: row \d+: '.*' is '4' here and '2' in .*one"):
        apply_answers(str(output), [one, three])
    # Nothing was written before the answers were known to be valid.
    assert read_table(output / "reviewed/table").num_rows == COUNT


def test_the_file_in_place_is_applied_by_default(make_table: MakeTable) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    filled = Path(answer(output, {row.key: row.label for row in rows})).read_bytes()
    (output / "review/queue.csv").write_bytes(filled)
    result = apply_answers(str(output), [])
    assert result.answered == len(rows)
    assert "labels that nobody reviewed are at least 95 % correct" in result.line
    german = answer(output, {rows[0].key: "1"}, delimiter=";", encoding="utf-8-sig")
    for path in (output / "review/queue.csv", Path(german)):
        path.replace(output / "review/queue.csv")
        with pytest.raises(InputError, match="has answers; apply them first"):
            create_queue(str(output), risk=0.05)
    create_queue(str(output), risk=0.05, overwrite=True)


def test_rows_that_are_deleted_from_the_queue_are_not_answered(make_table: MakeTable) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    path = Path(answer(output, {row.key: row.label for row in rows}))
    lines = path.read_bytes().splitlines(keepends=True)
    (output / "review/queue.csv").write_bytes(b"".join(lines[:4]))
    result = apply_answers(str(output), [])
    assert (result.answered, sum(result.unanswered.values())) == (3, len(rows) - 3)
    assert result.line == f"the promise takes {len(rows) - 3} more answers"
    (output / "review/queue.csv").write_text(f"key,answer\n{rows[0].key},1\n")
    with pytest.raises(InputError, match=r"queue\.csv: no column 'source'; restore it, and give"):
        apply_answers(str(output), [])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Cat", "cat"),
        ("1", "01"),
        ("1.0", "01"),
        ("02", "02"),
        ("2", None),
        ("TRUE", "true"),
        ("dog", None),
        ("", None),
    ],
)
def test_what_spreadsheets_make_of_a_class_is_that_class(text: str, meant: str | None) -> None:
    assert class_of(text, ["cat", "01", "02", "002", "true"]) == meant


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("eleven", r"row 2: 'eleven' is no class of the model \(0, 1, .*, 9\) and not '-'"),
        ("10", "pass --new-labels"),
    ],
)
def test_unknown_labels_are_refused(make_table: MakeTable, label: str, message: str) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    path = answer(output, {rows[0].key: label})
    with pytest.raises(InputError, match=message):
        apply_answers(str(output), [path])
    assert not (output / "reviewed").exists()
    assert apply_answers(str(output), [path], new_labels=True).changed == 1


def test_wrong_files_are_refused(make_table: MakeTable, tmp_path: Path) -> None:
    output = make_table()
    with pytest.raises(InputError, match="no queue; make one with `vaeline review create`"):
        apply_answers(str(output), [])
    create_queue(str(output), risk=0.05)
    with pytest.raises(InputError, match=r"missing\.csv: no such file or folder"):
        apply_answers(str(output), [str(tmp_path / "missing.csv")])
    other = tmp_path / "other.csv"
    other.write_text("file,label\na,b\n")
    with pytest.raises(InputError, match="no column 'key'"):
        apply_answers(str(output), [str(other)])
    other.write_text("key,answer\nelsewhere.png,1\n")
    with pytest.raises(InputError, match=r"row 2: 'elsewhere\.png' is not in the queue"):
        apply_answers(str(output), [str(other)])
    other.write_bytes("key,answer\nM\xfcller.png,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        apply_answers(str(output), [str(other)])


def test_a_new_table_makes_the_queue_stale(make_table: MakeTable, images: np.ndarray) -> None:
    output = make_table()
    _, rows = create_queue(str(output), risk=0.05)
    kept = (output / "review/queue.json").read_bytes()
    answered = Path(answer(output, {rows[0].key: "1"}))
    answers = answered.replace(output / "review/queue.csv").read_bytes()
    corrections = Path(apply_answers(str(output), []).corrections).read_bytes()
    make_table(images[10 : COUNT + 10], overwrite=True)
    # The job removes what belongs to the earlier table, but not what people did.
    assert not (output / "review").exists()
    assert not (output / "reviewed").exists()
    (queue,) = (output / "_answers").rglob("queue.csv")
    assert queue.read_bytes() == answers
    assert queue.with_name("corrections.csv").read_bytes() == corrections
    (output / "review").mkdir()
    stale = {**json.loads(kept), "table_written": "2020-01-01T00:00:00+00:00"}
    (output / "review/queue.json").write_text(json.dumps(stale))
    with pytest.raises(InputError, match="the table was made anew since"):
        apply_answers(str(output), [])
    (output / "review/queue.csv").write_bytes(answers)
    with pytest.raises(InputError, match="has answers; the table has changed since"):
        create_queue(str(output), risk=0.05)


def test_a_job_that_finds_nothing_new_leaves_the_queue_valid(make_table: MakeTable) -> None:
    output = make_table(drift={"picture": False})
    manifest = output / "_manifest.json"
    yesterday = {**json.loads(manifest.read_text()), "written": "2020-01-01T00:00:00+00:00"}
    manifest.write_text(json.dumps(yesterday))
    _, rows = create_queue(str(output), risk=0.05)
    make_table(drift={"picture": False})
    assert apply_answers(str(output), [answer(output, {rows[0].key: "1"})]).answered == 1


def test_what_is_no_table_is_refused(make_table: MakeTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no _manifest.json of a finished job"):
        create_queue(str(tmp_path), risk=0.01)
    output = make_table(format="tfrecord")
    with pytest.raises(InputError, match="the table is tfrecord; a review needs one of parquet"):
        create_queue(str(output), risk=0.01)
    output = make_table(columns=("key", "label"), overwrite=True)
    with pytest.raises(InputError, match="the table has no column probability"):
        create_queue(str(output), risk=0.01)
