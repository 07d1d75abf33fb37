"""The drift report: quiet on the training data's own halves, loud on data that changed."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.bulk_inference.annotation.handler import Annotator
from components.bulk_inference.annotation.schema import COLUMNS
from components.bulk_inference.config import CLASSIFY_COLUMNS, EMBED_COLUMNS, DriftConfig
from components.bulk_inference.drift.comparison import (
    DriftReport,
    judge_drift,
    prior_shift,
    two_sample,
)
from components.bulk_inference.drift.drift_sums import DriftSums, expected_shares, inner_edges
from components.bulk_inference.model_card import read_card
from serving import names
from tests.components.bulk_inference.archives import png, write_zip
from tests.components.bulk_inference.conftest import RunJob
from tests.components.bulk_inference.model_fixture import copy_model, summarise
from trainer.model_card import ModelCard, TrainingSummaries

RATE = 0.05


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    digits = np.minimum(load_digits().images * 16, 255).astype(np.uint8)[..., np.newaxis]
    return digits[np.random.default_rng(0).permutation(len(digits))]


@pytest.fixture(scope="module")
def annotator(model: Path) -> Annotator:
    return Annotator(read_card(str(model)), workers=2, max_images=512, columns=tuple(COLUMNS))


@pytest.fixture(scope="module")
def card(annotator: Annotator, images: np.ndarray) -> ModelCard:
    """The model's card with summaries of all digits."""
    outputs, _ = annotator.annotate_pixels(images)
    return with_summaries(annotator.card, summarise(images, outputs))


@pytest.fixture(scope="module")
def summarised(model: Path, card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with these summaries."""
    summaries = card.summaries.model_dump(exclude_unset=True)
    return copy_model(model, tmp_path_factory.mktemp("summarised") / "1", summaries=summaries)


def with_summaries(card: ModelCard, summaries: dict[str, Any]) -> ModelCard:
    return card.model_copy(update={"summaries": TrainingSummaries.model_validate(summaries)})


def report_on(card: ModelCard, annotator: Annotator, images: np.ndarray) -> DriftReport:
    sums = DriftSums(card)
    outputs, _ = annotator.annotate_pixels(images)
    sums.add_answers(outputs)
    for begin in range(0, len(images), 64):
        sums.add_pixels(images[begin : begin + 64])
    sums.add_files(["png"] * len(images), *np.full((2, len(images)), 8))
    return judge_drift(card, sums, RATE)


def test_random_halves_of_the_training_data_alarm_at_most_at_the_stated_rate(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    draw = np.random.default_rng(1)
    halves = [draw.permutation(len(images))[: len(images) // 2] for _ in range(100)]
    alarms = [report_on(card, annotator, images[half]).alarm for half in halves]
    assert sum(alarms) <= RATE * len(halves)


def test_other_images_of_the_same_kind_do_not_alarm(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    outputs, _ = annotator.annotate_pixels(images[:900])
    first = with_summaries(card, summarise(images[:900], outputs))
    assert not report_on(first, annotator, images[900:]).alarm


def test_a_few_known_images_raise_no_false_alarm_and_the_report_says_how_few(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    outputs, _ = annotator.annotate_pixels(images[:45])
    few = with_summaries(card, summarise(images[:45], outputs))
    report = report_on(few, annotator, images[900:])
    assert not report.alarm
    assert "Only 45 images that the model has not learned" in report.as_markdown()
    assert report_on(few, annotator, 255 - images[900:]).alarm
    fewer = with_summaries(card, {**few.summaries.model_dump(), "images": 14})
    assert report_on(fewer, annotator, images[900:]).tests == []


def test_answers_without_scores_are_compared_by_the_other_families(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    fast = Annotator(annotator.card, workers=2, max_images=512, columns=("label", "probability"))
    whole = {test.name for test in report_on(card, annotator, images).tests}
    report = report_on(card, fast, images)
    assert whole - {test.name for test in report.tests} == {"outlier_score"}
    assert report.outlier_share is None
    assert not report.alarm
    assert report_on(card, fast, 255 - images).alarm


@pytest.mark.parametrize("change", ["blurred", "inverted", "brighter", "re-weighted"])
def test_changed_copies_alarm(
    change: str, card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    outputs, _ = annotator.annotate_pixels(images)
    labels = outputs[names.LABEL_INDEX]
    common = labels == np.bincount(labels).argmax()
    changed = {
        "blurred": np.stack([cv2.GaussianBlur(i, (3, 3), 1.0)[..., None] for i in images]),
        "inverted": 255 - images,
        "brighter": np.clip(images.astype(int) + 30, 0, 255).astype(np.uint8),
        "re-weighted": np.concatenate([images[~common], images[common][::3]]),
    }[change]
    report = report_on(card, annotator, changed)
    assert report.alarm
    assert any(test.alarm and test.p_value < 1e-3 for test in report.tests)


def test_other_formats_and_sizes_alarm_and_the_same_ones_do_not(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    outputs, _ = annotator.annotate_pixels(images[:400])
    trained = {"images": 4000, "format": {"png": 3000, "jpeg": 1000}, "size": {"8x8": 3900}}
    mixed = with_summaries(card, {**card.summaries.model_dump(), "mix": trained})

    def alarms(formats: dict[str, int], side: int) -> set[str]:
        sums = DriftSums(mixed)
        sums.add_answers(outputs)
        names = [name for name, count in formats.items() for _ in range(count)]
        sums.add_files(names, np.full(390, 8), np.full(390, side))
        sums.add_files(["png"] * 10, *np.full((2, 10), 50))
        return {test.name for test in judge_drift(mixed, sums, RATE).tests if test.alarm}

    assert alarms({"png": 290, "jpeg": 100}, 8) == set()
    assert alarms({"png": 390}, 8) == {"format"}
    assert alarms({"png": 290, "webp": 100}, 8) == {"format"}
    assert alarms({"png": 290, "jpeg": 100}, 9) == {"size"}


def test_photographs_that_all_have_their_own_size_do_not_alarm_and_a_new_common_size_does(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    sizes = np.random.default_rng(3).permutation(400 * 400)[:240] + 400
    trained = {f"{size}x{size}": 1 for size in sizes[:50].tolist()}
    mix = {"images": 120, "format": {"png": 120}, "size": trained}
    mixed = with_summaries(card, {**card.summaries.model_dump(), "mix": mix})
    outputs, _ = annotator.annotate_pixels(images[:120])

    def alarms(sides: np.ndarray) -> bool:
        sums = DriftSums(mixed)
        sums.add_answers(outputs)
        sums.add_files(["png"] * 120, sides, sides)
        return any(test.alarm for test in judge_drift(mixed, sums, RATE).tests)

    assert not alarms(sizes[120:])
    assert alarms(np.full(120, 64))


def test_sums_do_not_depend_on_the_division(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    outputs, _ = annotator.annotate_pixels(images)
    whole, parts = DriftSums(card), DriftSums(card)
    whole.add_answers(outputs)
    for begin in range(0, len(images), 100):
        part = DriftSums(card)
        part.add_answers({name: value[begin : begin + 100] for name, value in outputs.items()})
        parts.add_dict(json.loads(json.dumps(part.as_dict())))
    for name, counts in whole.counts.items():
        np.testing.assert_array_equal(parts.counts[name], counts)


def test_shares_of_bins_count_ties_once() -> None:
    levels = [0.1, 0.5, 0.9]
    assert inner_edges([2.0, 2.0, 3.0]).tolist() == [2.0, 3.0]
    np.testing.assert_allclose(expected_shares([2.0, 2.0, 3.0], levels), [0.5, 0.4, 0.1])


def test_two_sample_chi_square_against_a_table_by_hand() -> None:
    # Two samples of 100: (a - b)^2 / (a + b) summed over two bins.
    statistic, p_value, distance = two_sample(np.array([60, 40]), np.array([0.4, 0.6]), 100)
    assert statistic == pytest.approx(8.0)
    assert p_value == pytest.approx(0.004677735, rel=1e-5)
    assert distance == pytest.approx(0.2)


@pytest.mark.parametrize("archive", [[1_000_000, 0], [0, 6_000]])
def test_a_class_that_a_large_archive_lacks_is_seen(archive: list[int]) -> None:
    # Of both samples together hardly any image is of that class.
    _, p_value, distance = two_sample(np.array(archive), np.array([0.5, 0.5]), 126)
    assert p_value < 1e-9
    assert distance == pytest.approx(0.5)


def test_prior_shift_finds_the_shares_behind_a_blurry_classifier() -> None:
    draw = np.random.default_rng(0)
    truth = draw.random(4000) < 0.9
    # A score of unit variance around 0 or 1.5; posteriors for equal priors.
    score = draw.normal(np.where(truth, 1.5, 0.0), 1.0)
    likelihood = np.exp(-0.5 * (score[:, None] - np.array([0.0, 1.5])) ** 2)
    posteriors = likelihood / likelihood.sum(axis=1, keepdims=True)
    assert posteriors.mean(axis=0)[1] < 0.8
    assert prior_shift(posteriors, np.array([0.5, 0.5]))[1] == pytest.approx(0.9, abs=0.02)


def test_the_mix_is_estimated_only_where_the_predicted_labels_differ(
    card: ModelCard, annotator: Annotator, images: np.ndarray
) -> None:
    same = report_on(card, annotator, images)
    assert not same.mix_differs
    assert same.as_dict()["mix_differs"] is False
    table = same.as_markdown()
    assert "| label | held-out | archive |\n" in table
    assert "estimated" not in table
    outputs, _ = annotator.annotate_pixels(images)
    labels = np.asarray(outputs["label_index"])
    rarer = images[labels != np.bincount(labels).argmax()]
    other = report_on(card, annotator, rarer)
    assert other.mix_differs
    assert "| label | held-out | archive | estimated |\n" in other.as_markdown()


def test_a_job_writes_a_table_and_a_picture(
    tmp_path: Path, run_job: RunJob, summarised: Path, images: np.ndarray
) -> None:
    members = {f"{at:03d}.png": png(255 - image[..., 0]) for at, image in enumerate(images[:80])}
    archive = write_zip(tmp_path / "a.zip", members)
    # The second one was killed after its last unit, before the picture and the manifest.
    for lost in ((), ("_manifest.json", "drift.png")):
        for name in lost:
            (tmp_path / "out" / name).unlink()
        result = run_job(archive, model=str(summarised))
        assert (tmp_path / "out" / "drift.png").exists()
    assert result.drift is not None
    assert result.drift["alarm"] is True
    assert result.drift["formats"] == {"png": 80}
    assert json.loads((tmp_path / "out" / "drift.json").read_text()) == result.drift
    assert "| brightness |" in (tmp_path / "out" / "drift.md").read_text()
    assert cv2.imread(str(tmp_path / "out" / "drift.png")).shape[1] == 1200


def _needs_answers(name: str) -> bool:
    return name in ("classes", "confidence", "outlier_score")


def test_rows_that_are_kept_count_as_well(
    tmp_path: Path, run_job: RunJob, summarised: Path, images: np.ndarray
) -> None:
    members = {f"{at:03d}.png": png(image[..., 0]) for at, image in enumerate(images[:80])}
    path = write_zip(tmp_path / "a.zip", members)

    def found(columns: tuple[str, ...], kept: int) -> dict[str, Any]:
        quiet = DriftConfig(picture=False)
        result = run_job(path, model=str(summarised), columns=columns, drift=quiet, units=80)
        assert result.reused == kept
        assert result.drift is not None
        return result.drift

    for columns in ((*CLASSIFY_COLUMNS, "probabilities"), EMBED_COLUMNS):
        before = found(columns, 0)
        (tmp_path / columns[-1]).mkdir()
        path = path.rename(tmp_path / columns[-1] / "a.zip")
        after = found(columns, 80)
        if "label" in columns:
            assert after == before
            continue
        # A table without labels does not tell all of the kept rows.
        assert after["images"] == before["images"] == 80
        assert after["labels"] == {}
        known = [test for test in before["tests"] if not _needs_answers(test["name"])]
        assert after["tests"] == known


def test_a_model_without_summaries_says_so(tmp_path: Path, run_job: RunJob) -> None:
    members = {f"{at}.png": png(np.zeros((8, 8), np.uint8)) for at in range(3)}
    result = run_job(write_zip(tmp_path / "a.zip", members))
    assert result.drift is not None
    assert "the model has 0 held-out images" in result.drift["note"]
    assert not (tmp_path / "out" / "drift.png").exists()
