"""Damaged models are refused by the gate that should, for its reason; better ones are blessed."""

import dataclasses
import json
import math

import numpy as np
import pytest
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

from components.model_gate import metric_names as m
from components.model_gate.config import EvaluationConfig
from components.model_gate.measures import EvaluationError, read_measures
from components.model_gate.rules import judge_model
from components.model_gate.unlabelled_gain import GAIN, unlabelled_gain
from components.model_gate.verdict import Result, Verdict, read_verdict
from tests.components.model_gate.measured import measure, probabilities

IMAGES, CLASSES = 3000, 10
BOUNDS = EvaluationConfig(
    min_accuracy=0.9,
    min_balanced_accuracy=0.9,
    min_class_recall=0.8,
    min_slice_accuracy=0.8,
    max_log_loss=1.0,
    max_calibration_error=0.05,
    max_accuracy_drop=0.01,
    max_flips=0.1,
)


def labels() -> np.ndarray:
    return np.arange(IMAGES) % CLASSES


def model(accuracy: float, seed: int) -> np.ndarray:
    """Probabilities of a calibrated model: right with the confidence that it claims."""
    draw = np.random.default_rng(seed)
    wrong = draw.random(IMAGES) >= accuracy
    given = np.where(wrong, (labels() + draw.integers(1, CLASSES, IMAGES)) % CLASSES, labels())
    made = np.full([IMAGES, CLASSES], (1 - accuracy) / (CLASSES - 1))
    made[np.arange(IMAGES), given] = accuracy
    return made


def sharpened(made: np.ndarray, power: float) -> np.ndarray:
    return probabilities(power * np.log(made))


def refused_rows(verdict: Verdict) -> list[str]:
    return [check.metric for check in verdict.checks if check.blocks]


GOOD = model(0.96, 1)


def test_a_first_model_is_blessed_on_absolute_bounds_and_says_so() -> None:
    verdict = judge_model(measure(GOOD, labels()), BOUNDS)
    assert verdict.blessed
    assert verdict.first_model
    assert verdict.headline() == "blessed as the first model, on absolute bounds only"
    assert verdict.checks[-1].value == "none: this is the first"


def test_a_better_model_is_blessed() -> None:
    # It mends half of the mistakes and makes none anew.
    mended = (GOOD.argmax(axis=1) != labels()) & (np.arange(IMAGES) % 2 == 0)
    better = np.where(mended[:, None], np.eye(CLASSES)[labels()] * 0.9 + 0.01, GOOD)
    verdict = judge_model(measure(better, labels(), baseline=GOOD), BOUNDS)
    assert verdict.blessed, verdict.refusals
    assert not verdict.first_model
    assert verdict.headline() == "blessed"


def test_wrong_labels_are_refused_by_the_accuracy() -> None:
    shifted = np.roll(GOOD, 1, axis=1)
    verdict = judge_model(measure(shifted, labels()), BOUNDS)
    assert "accuracy" in refused_rows(verdict)
    assert "is below evaluation.min_accuracy 0.9000" in verdict.refusals[0]


def test_one_class_unlearned_is_refused_by_that_class_alone() -> None:
    unlearned = GOOD.copy()
    unlearned[:, 7] = 1e-9
    unlearned /= unlearned.sum(axis=1, keepdims=True)
    bounds = BOUNDS.model_copy(
        update={"min_accuracy": 0.8, "min_balanced_accuracy": 0.8, "max_log_loss": None,
                "max_calibration_error": None}
    )  # fmt: skip
    verdict = judge_model(measure(unlearned, labels()), bounds)
    assert refused_rows(verdict) == ["weakest class: 7"]
    assert verdict.refusals[0].startswith("recall of class 7 is 0.0000, at most 0.0")
    assert verdict.refusals[0].endswith("below evaluation.min_class_recall 0.8000")


@pytest.mark.parametrize("power", [0.3, 6.0])
def test_a_miscalibrated_model_is_refused_by_the_calibration_error_alone(power: float) -> None:
    bounds = BOUNDS.model_copy(update={"max_log_loss": None})
    verdict = judge_model(measure(sharpened(model(0.93, 3), power), labels()), bounds)
    assert refused_rows(verdict) == ["calibration error"]
    assert "is above evaluation.max_calibration_error 0.0500" in verdict.refusals[0]


def test_a_bound_that_chance_exceeds_on_few_images_says_so() -> None:
    few = slice(0, 60)
    bounds = EvaluationConfig(min_accuracy=0.5, max_calibration_error=0.01)
    verdict = judge_model(measure(model(0.93, 3)[few], labels()[few]), bounds)
    assert refused_rows(verdict) == ["calibration error"]
    assert "on 60 images even a perfectly calibrated model has up to 0." in verdict.refusals[0]
    many = judge_model(measure(sharpened(model(0.93, 3), 6.0), labels()), BOUNDS)
    assert "perfectly calibrated" not in " ".join(many.refusals)


def test_half_the_labels_flipped_is_refused_by_the_consequence_alone() -> None:
    # Each has a quarter of its own that it is wrong on, so that the accuracy is the same.
    quarter = (np.arange(IMAGES) // CLASSES % 4)[:, None]
    wrong = np.roll(GOOD, 3, axis=1)
    bounds = EvaluationConfig(min_accuracy=0.7, max_accuracy_drop=0.05)
    verdict = judge_model(
        measure(
            np.where(quarter == 0, wrong, GOOD),
            labels(),
            baseline=np.where(quarter == 1, wrong, GOOD),
        ),
        bounds,
    )
    assert refused_rows(verdict) == ["flipped labels"]
    assert verdict.refusals[0].startswith("0.5000 of the labels differ")


def test_a_gain_pays_for_flips() -> None:
    old, new = model(0.80, 4), model(0.96, 5)
    bounds = EvaluationConfig(min_accuracy=0.9, max_flips=0.0, flips_per_gain=2.0)
    verdict = judge_model(measure(new, labels(), baseline=old), bounds)
    (row,) = (check for check in verdict.checks if check.metric == "flipped labels")
    assert row.result is Result.PASSED
    stingy = bounds.model_copy(update={"flips_per_gain": 1.0})
    assert refused_rows(judge_model(measure(new, labels(), baseline=old), stingy)) == [
        "flipped labels"
    ]


def test_a_weak_archive_is_refused_by_its_floor_and_a_tiny_one_is_not() -> None:
    archives = np.where(np.arange(IMAGES) < 60, "/data/weak.zip", "/data/good.zip")
    archives[-2:] = "/data/tiny.zip"
    damaged = GOOD.copy()
    damaged[:60] = np.roll(damaged[:60], 1, axis=1)
    damaged[-2:-1] = np.roll(damaged[-2:-1], 1, axis=1)
    bounds = EvaluationConfig(min_accuracy=0.9, min_slice_accuracy=0.8)
    verdict = judge_model(measure(damaged, labels(), archives=archives), bounds)
    (refused,) = refused_rows(verdict)
    assert refused == "weakest archive: weak.zip"
    assert verdict.refusals[0].startswith("accuracy of archive weak.zip is 0.0167, at most 0.1")


def test_classes_of_few_images_on_their_floor_are_hardly_ever_refused() -> None:
    bounds = EvaluationConfig(min_accuracy=0.0, min_class_recall=0.8)
    draw = np.random.default_rng(7)
    truth = np.arange(20) % CLASSES
    refused, draws = 0, 20
    for _ in range(draws):
        given = np.where(draw.random(20) < 0.8, truth, (truth + 1) % CLASSES)
        verdict = judge_model(measure(np.eye(CLASSES)[given] * 0.9 + 0.01, truth), bounds)
        refused += not verdict.blessed
    assert refused <= 0.1 * draws
    (row,) = [check for check in verdict.checks if check.metric == "class floor not testable"]
    assert row.value == "10: 0, 1, 2, 3, 4, ... (< 4 test images)"


def test_a_worse_model_is_refused_and_an_undecided_one_as_configured() -> None:
    tolerant = BOUNDS.model_copy(update={"max_flips": 0.3})
    worse = judge_model(measure(model(0.92, 6), labels(), baseline=GOOD), tolerant)
    assert refused_rows(worse) == ["change of accuracy"]
    assert "is surely a loss" in worse.refusals[0]

    few = slice(0, 300)
    undecided = measure(model(0.96, 8)[few], labels()[few], baseline=GOOD[few])
    bounds = EvaluationConfig(min_accuracy=0.9)
    verdict = judge_model(undecided, bounds)
    assert refused_rows(verdict) == ["change of accuracy"]
    assert "undecided" in verdict.refusals[0]
    assert "test images instead of 300" in verdict.refusals[0]
    blessed = judge_model(undecided, bounds.model_copy(update={"when_undecided": "bless"}))
    assert blessed.blessed
    assert Result.UNDECIDED in {check.result for check in blessed.checks}


def test_a_surer_wrong_model_is_refused_by_the_log_loss_where_that_is_bounded() -> None:
    bounds = EvaluationConfig(min_accuracy=0.9, max_log_loss_rise=0.02)
    verdict = judge_model(measure(sharpened(GOOD, 4.0), labels(), baseline=GOOD), bounds)
    assert refused_rows(verdict) == ["fall of log loss"]


def test_a_class_without_test_images_is_named_and_has_no_floor() -> None:
    kept = labels() != 3
    measures = measure(GOOD[kept], labels()[kept])
    free = judge_model(measures, BOUNDS.model_copy(update={"min_class_recall": None}))
    (row,) = [check for check in free.checks if check.metric == "classes without test images"]
    assert (row.value, row.result) == ("1: 3", Result.MEASURED)
    assert free.blessed
    held = judge_model(measures, BOUNDS)
    assert refused_rows(held) == ["classes without test images"]
    assert "(3) have no test image, so that evaluation.min_class_recall" in held.refusals[0]


def test_a_class_that_is_gone_is_named_and_has_no_floor() -> None:
    measures = measure(GOOD, labels(), baseline=GOOD)
    measures = dataclasses.replace(measures, gone_classes=["cow", "dog"])
    free = judge_model(measures, BOUNDS.model_copy(update={"min_class_recall": None}))
    (row,) = [check for check in free.checks if check.metric == "classes gone"]
    assert (row.value, row.result) == ("2: cow, dog", Result.MEASURED)
    assert free.blessed
    held = judge_model(measures, BOUNDS)
    assert refused_rows(held) == ["classes gone"]
    assert "last blessed model are no longer in the data" in held.refusals[0]
    all_there = judge_model(measure(GOOD, labels()), BOUNDS)
    assert not {"classes gone", "classes without test images"} & {
        check.metric for check in all_there.checks
    }


def test_a_class_that_the_last_model_cannot_know_is_named_with_its_test_images() -> None:
    measures = measure(GOOD, labels(), baseline=GOOD)
    new = dataclasses.replace(measures, new_classes=["1", "3"])
    verdict = judge_model(new, BOUNDS)
    (row,) = [check for check in verdict.checks if check.metric == "classes new"]
    images = int(np.isin(labels(), (1, 3)).sum())
    assert row.value == f"2: 1, 3; {images} test images that the last blessed model cannot know"
    assert row.result is Result.MEASURED
    assert verdict.blessed == judge_model(measures, BOUNDS).blessed


def test_the_classes_of_the_last_model_are_compared() -> None:
    proto = metrics_for_slice_pb2.MetricsForSlice()
    metric = proto.metric_keys_and_values.add()
    metric.key.name = m.EXAMPLE_COUNT
    metric.value.double_value.value = 3
    assert read_measures([proto], ["a", "b"], ["b", "c"]).gone_classes == ["c"]
    assert read_measures([proto], ["a", "b"], ["b", "c"]).new_classes == ["a"]
    first = read_measures([proto], ["a", "b"])
    assert not first.gone_classes
    assert not first.new_classes


def test_a_value_that_is_not_a_number_does_not_pass() -> None:
    measures = measure(GOOD, labels())
    measures.overall.values["log_loss"] = math.nan  # type: ignore[index]
    assert "log loss" in refused_rows(judge_model(measures, BOUNDS))


def test_a_split_without_images_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(EvaluationError, match=r"give input\.splits\.test a share"):
        read_measures([], ["a", "b"])


def test_a_verdict_is_stored_and_read_again() -> None:
    verdict = judge_model(measure(GOOD, labels(), baseline=model(0.9, 9)), BOUNDS)
    again = read_verdict(verdict.to_json())
    assert again.checks == verdict.checks
    assert (again.blessed, again.first_model) == (verdict.blessed, verdict.first_model)
    assert json.loads(verdict.to_json())["classes"]["3"]["images"] == IMAGES // CLASSES
    text = verdict.to_text()
    assert text.startswith("gate: ")
    for check in verdict.checks:
        assert check.metric in text


@pytest.mark.parametrize(
    ("without", "outcome", "blessed"),
    [(0.5, "helped", True), (0.9, "made no measurable difference", True), (0.999, "hurt", False)],
)
def test_unlabelled_images_that_hurt_are_refused_on_demand(
    without: float, outcome: str, blessed: bool
) -> None:
    candidate = model(0.9, 1)
    other = candidate if without == 0.9 else model(without, 2)
    paired = measure(candidate, labels(), baseline=other).overall.paired
    gain = unlabelled_gain(paired, {"train": 100, "unlabelled": 59_900}, 0.95)
    right = (other.argmax(axis=1) == labels()).mean()
    assert gain.accuracy_without == pytest.approx(right)
    assert gain.outcome == outcome
    assert gain.line.startswith(f"the 59,900 unlabelled images {outcome}: ")
    free = EvaluationConfig(min_accuracy=0.5, labelled_only="report")
    verdict = judge_model(measure(candidate, labels()), free, gain=gain)
    assert verdict.blessed
    assert read_verdict(verdict.to_json()).measures[GAIN]["outcome"] == outcome
    strict = free.model_copy(update={"labelled_only": "refuse"})
    held = judge_model(measure(candidate, labels()), strict, gain=gain)
    assert held.blessed is blessed
    assert all("trainer.semi_supervised.enabled" in line for line in held.refusals)
