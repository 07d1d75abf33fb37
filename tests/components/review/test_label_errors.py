"""Wrong labels of an archive: found, ranked, shown and corrected."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources.config import InputConfig
from components.image_sources.corrections import read_corrections
from components.image_sources.label_config import LabelsConfig
from components.review.answers import apply_answers
from components.review.label_errors import create_label_queue, find_label_errors
from components.review.labelled_archive import LabelledArchive
from tests.components.bulk_inference.archives import png, write_zip
from tests.components.bulk_inference.model_fixture import export_model
from trainer.errors import InputError
from trainer.storage.config import StorageConfig

COUNT = 800


@pytest.fixture(scope="module")
def truth() -> dict[str, tuple[str, str]]:
    """Given and true label by member: one in twenty is wrong, and one class is new."""
    digits = load_digits().target[:COUNT]
    random = np.random.default_rng(2)
    given = digits.copy()
    flips = random.permutation(COUNT)[: COUNT // 20]
    given[flips] = (digits[flips] + random.integers(1, 10, len(flips))) % 10
    labels = {
        f"{g}/{at:04d}.png": (str(g), str(d))
        for at, (g, d) in enumerate(zip(given, digits, strict=True))
    }
    labels["letter/a.png"] = ("letter", "letter")
    return labels


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, truth: dict[str, tuple[str, str]]) -> Path:
    """The table of a model with random features over these digits."""
    folder = tmp_path_factory.mktemp("labels")
    model = export_model(folder / "1", embedding=32, hidden=96)
    images = np.minimum(load_digits().images[:COUNT] * 16, 255).astype(np.uint8)
    members = {
        name: png(images[at] if at < COUNT else images[0].T) for at, name in enumerate(truth)
    }
    return classify(folder, model, members)


def classify(folder: Path, model: Path, members: dict[str, bytes], **options: object) -> Path:
    archive = write_zip(folder / "a.zip", members)
    inputs = InputConfig(paths=(str(archive),), labels=LabelsConfig(source="auto"))
    settings = {"model": str(model), "output": str(folder / "out"), "input": inputs, **options}
    run_bulk(BulkConfig.model_validate(settings))
    return folder / "out"


def test_wrong_labels_come_first(output: Path, truth: dict[str, tuple[str, str]]) -> None:
    found = find_label_errors(LabelledArchive(str(output)))
    rows = found.rows.to_pylist()
    assert len(rows) == COUNT
    assert found.unjudged == 1
    is_wrong = np.array([given != true for given, true in (truth[row["member"]] for row in rows)])
    scores = np.array([row["score"] for row in rows])
    assert (np.diff(scores) <= 0).all()
    assert average_precision_score(is_wrong, scores) > 0.8
    assert is_wrong[: COUNT // 10].sum() >= 0.9 * is_wrong.sum()
    wrong = [row for row, bad in zip(rows, is_wrong, strict=True) if bad]
    right = [row["suggested"] == truth[row["member"]][1] for row in wrong]
    assert np.mean(right) > 0.8
    assert list(found.wrong) == [str(k) for k in range(10)]
    assert 0.5 * is_wrong.sum() < found.estimated < 2.5 * is_wrong.sum()
    for row in rows:
        assert row["given_label"] == truth[row["member"]][0]
        assert (row["suggested"] == row["given_label"]) == (row["score"] <= 0)
        assert 0 < row["probability_given"] <= 1
        assert 0 < row["neighbours"] < 1


def test_the_ranking_is_the_same_every_time(output: Path) -> None:
    first, second = (find_label_errors(LabelledArchive(str(output))).rows for _ in range(2))
    assert first["key"].to_pylist()[:40] == second["key"].to_pylist()[:40]


def test_corrected_labels_reach_the_next_ingest(
    output: Path, truth: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    facts, rows = create_label_queue(str(output), most=30)
    assert len(rows) == facts.listed["given label"] == 30
    assert f"about {facts.wrong_given} of 800 given labels are wrong; the 30 most" in facts.line()
    ranked = pq.read_table(output / "review/label_errors.parquet")
    assert ranked["key"].to_pylist()[:30] == [row.key for row in rows]
    text = (output / "review/queue.csv").read_text("utf-8-sig")
    queue = list(csv.DictReader(io.StringIO(text)))
    answers = tmp_path / "answers.csv"
    with answers.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, queue[0].keys())
        writer.writeheader()
        writer.writerows({**row, "answer": truth[row["member"]][1]} for row in queue)
    result = apply_answers(str(output), [str(answers)])
    wrong = [row for row in queue if truth[row["member"]][0] != truth[row["member"]][1]]
    assert (result.answered, result.changed) == (30, len(wrong))
    assert f"of 30 with an answer {len(wrong)} were" in result.line
    found = read_corrections((result.corrections,), StorageConfig())
    table = pq.ParquetDataset(str(output / "table")).read().to_pylist()
    digests = {row["key"]: bytes.fromhex(row["sha256"]) for row in table}
    for row in queue:
        assert found.label(digests[row["key"]], None) == truth[row["member"]][1]


def test_an_archive_without_labels_is_refused(output: Path, tmp_path: Path) -> None:
    images = np.minimum(load_digits().images[:4] * 16, 255).astype(np.uint8)
    members = {f"{at}.png": png(image) for at, image in enumerate(images)}
    model = output.parent / "1"
    plain = classify(tmp_path, model, members)
    with pytest.raises(InputError, match="no two images have a label that the model knows"):
        create_label_queue(str(plain))
    other = {f"zebra/{name}": image for name, image in members.items()}
    foreign = classify(tmp_path, model, other, overwrite=True)
    with pytest.raises(InputError, match=r"knows, but 'zebra'; give an archive with labels$"):
        create_label_queue(str(foreign))
    few = classify(
        tmp_path, model, members, columns=("key", "label", "probability"), overwrite=True
    )
    with pytest.raises(InputError, match="the table has no column given_label; classify with it"):
        create_label_queue(str(few))
    lines = classify(tmp_path, model, members, format="csv", overwrite=True)
    with pytest.raises(InputError, match=r"the table is csv; classify with bulk\.format parquet"):
        create_label_queue(str(lines))


def test_two_classes_with_few_images_are_judged(output: Path, tmp_path: Path) -> None:
    digits = load_digits()
    images = np.minimum(digits.images * 16, 255).astype(np.uint8)
    zeros, ones = (np.flatnonzero(digits.target == k)[:4] for k in (0, 1))
    members = {
        f"{k}/{at}.png": png(images[at]) for k, chosen in ((0, zeros), (1, ones)) for at in chosen
    }
    plain = classify(tmp_path, output.parent / "1", members)
    rows = find_label_errors(LabelledArchive(str(plain))).rows
    assert rows.num_rows == 8
