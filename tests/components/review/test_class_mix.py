"""The class mix of an archive: estimated with its error, and labels adjusted to it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from sklearn.metrics import confusion_matrix

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.drift.comparison import prior_shift
from components.bulk_inference.job import run_bulk
from components.image_sources.config import InputConfig
from components.review.class_mix import adjust, adjust_labels, estimate_mix, is_shifted
from tests.components.bulk_inference.archives import digits, write_zip
from tests.components.bulk_inference.model_fixture import copy_model
from trainer.errors import InputError
from trainer.quality.held_out import HELD_OUT_FILE, HeldOutAnswers, write_held_out

TRAINED = np.array([0.4, 0.3, 0.2, 0.1])
SHIFTED = np.array([0.05, 0.15, 0.2, 0.6])
CENTRES = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5], [1.5, 1.5]])


def archive(shares: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn by shares, and what a perfect classifier of the training data says of each."""
    random = np.random.default_rng(seed)
    labels = random.choice(4, count, p=shares)
    points = CENTRES[labels] + random.normal(size=(count, 2))
    likelihoods = np.exp(-0.5 * ((points[:, None] - CENTRES) ** 2).sum(axis=2))
    weighted = likelihoods * TRAINED
    return labels, weighted / weighted.sum(axis=1, keepdims=True)


def spoilt(posteriors: np.ndarray) -> np.ndarray:
    """Makes probabilities too sure, and in favour of one class."""
    weighted = posteriors**3 * np.array([1.0, 8.0, 1.0, 1.0])
    return weighted / weighted.sum(axis=1, keepdims=True)


def predicted(posteriors: np.ndarray) -> np.ndarray:
    return np.bincount(posteriors.argmax(axis=1), minlength=4)


def confusion(labels: np.ndarray, posteriors: np.ndarray) -> np.ndarray:
    return confusion_matrix(labels, posteriors.argmax(axis=1), labels=range(4))


def estimate(posteriors: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, ...]:
    return estimate_mix(posteriors, TRAINED, predicted(posteriors), known)


@pytest.mark.parametrize("classifier", [np.asarray, spoilt])
@pytest.mark.parametrize("held_out", [60, 1_000])
def test_the_interval_holds_the_true_shares(
    held_out: int, classifier: Callable[[np.ndarray], np.ndarray]
) -> None:
    inside = []
    for seed in range(60):
        labels, posteriors = archive(SHIFTED, 1_000, seed)
        true = np.bincount(labels, minlength=4) / len(labels)
        given, answers = archive(TRAINED, held_out, 1_000 + seed)
        estimated, low, high = estimate(
            classifier(posteriors), confusion(given, classifier(answers))
        )
        assert estimated.sum() == pytest.approx(1)
        assert ((low <= estimated) & (estimated <= high)).all()
        inside.append((low <= true) & (true <= high))
    # 240 intervals of 95 %, some of them of the same archive. Without the held-out images 0.19 of
    # them hold for the spoilt classifier.
    assert np.mean(inside) > 0.92


def test_an_estimate_that_the_held_out_images_refute_is_moved() -> None:
    labels, posteriors = archive(SHIFTED, 5_000, seed=4)
    given, answers = archive(TRAINED, 5_000, seed=5)
    found = spoilt(posteriors)
    estimated, _, _ = estimate(found, confusion(given, spoilt(answers)))
    likely = prior_shift(found, TRAINED)
    assert np.abs(estimated - SHIFTED).max() < 0.6 * np.abs(likely - SHIFTED).max()
    right = [
        (adjust(found, shares, TRAINED).argmax(axis=1) == labels).mean()
        for shares in (likely, estimated)
    ]
    assert right[1] > right[0] + 0.01


def test_a_class_without_held_out_images_has_no_interval() -> None:
    _, posteriors = archive(SHIFTED, 2_000, seed=6)
    known = confusion(*archive(TRAINED, 500, seed=7))
    known[3] = 0
    estimated, low, high = estimate(posteriors, known)
    assert np.isnan([low[3], high[3]]).all()
    assert np.isfinite([low[:3], high[:3]]).all()
    assert estimated.sum() == pytest.approx(1)
    _, low, high = estimate(posteriors, np.zeros((4, 4), int))
    assert np.isnan([low, high]).all()


def test_a_model_that_tells_nothing_apart_knows_no_shares() -> None:
    _, low, high = estimate(np.full((100, 4), 0.25), np.full((4, 4), 50))
    assert low == pytest.approx(np.zeros(4))
    assert high == pytest.approx(np.ones(4))


def test_adjusted_labels_are_better_where_the_mix_shifted() -> None:
    labels, posteriors = archive(SHIFTED, 5_000, seed=1)
    estimated, _, _ = estimate(posteriors, confusion(*archive(TRAINED, 1_000, seed=11)))
    adjusted = adjust(posteriors, estimated, TRAINED)
    before = (posteriors.argmax(axis=1) == labels).mean()
    after = (adjusted.argmax(axis=1) == labels).mean()
    assert after > before + 0.1
    np.testing.assert_allclose(adjusted.sum(axis=1), 1)
    # Calibrated, too: the mean probability is the accuracy.
    assert adjusted.max(axis=1).mean() == pytest.approx(after, abs=0.02)


def test_adjusting_does_no_harm_where_nothing_shifted() -> None:
    lost = []
    for seed in range(20):
        labels, posteriors = archive(TRAINED, 5_000, seed)
        held_out = confusion(*archive(TRAINED, 3_000, 100 + seed))
        estimated, _, _ = estimate(posteriors, held_out)
        # The labels are adjusted only if this is true.
        known = held_out.sum(axis=0)
        if is_shifted(predicted(posteriors), known):
            adjusted = adjust(posteriors, estimated, TRAINED)
            right = [(p.argmax(axis=1) == labels).mean() for p in (posteriors, adjusted)]
            lost.append(right[0] - right[1])
    assert len(lost) <= 2
    assert sum(lost) / 20 < 0.001
    assert is_shifted(predicted(archive(SHIFTED, 500, seed=0)[1]), known)


def test_bad_calibration_is_taken_for_no_shift() -> None:
    """Probabilities that are too sure and favour a class change the estimate, but not the test."""
    _, posteriors = archive(TRAINED, 5_000, seed=3)
    _, known = archive(TRAINED, 2_000, seed=50)
    assert np.abs(prior_shift(spoilt(posteriors), TRAINED) - TRAINED).max() > 0.05
    assert not is_shifted(predicted(spoilt(posteriors)), predicted(spoilt(known)))


def test_a_class_that_is_not_there_gets_no_share() -> None:
    _, posteriors = archive(np.array([0.5, 0.5, 0.0, 0.0]), 5_000, seed=2)
    estimated, low, _ = estimate(posteriors, confusion(*archive(TRAINED, 5_000, seed=12)))
    assert estimated[2:].max() < 0.03
    assert low[2:] == pytest.approx([0.0, 0.0], abs=0.01)


@pytest.fixture
def weighted(model: Path, tmp_path: Path) -> Path:
    """A model whose training data held class k (k + 1) / 55 of the images; none of 0 held out."""
    summaries = {"priors": [(k + 1) / 55 for k in range(10)]}
    folder = copy_model(model, tmp_path / "1", summaries=summaries)
    label = np.repeat(np.arange(10, dtype=np.int32), np.arange(10) * 10)
    sure = np.ones(len(label), np.float32)
    write_held_out(HeldOutAnswers(label, label, sure, sure), str(folder / HELD_OUT_FILE))
    return folder


def classify(tmp_path: Path, model: Path, **options: object) -> str:
    path = write_zip(tmp_path / "a.zip", digits(300))
    inputs = InputConfig(paths=(str(path),))
    settings = {"model": str(model), "output": str(tmp_path / "out"), "input": inputs, **options}
    run_bulk(BulkConfig.model_validate(settings))
    return str(tmp_path / "out")


def test_the_table_gets_adjusted_labels(tmp_path: Path, weighted: Path) -> None:
    columns = ("key", "label", "probability", "probabilities")
    output = classify(tmp_path, weighted, columns=columns)
    mix = adjust_labels(output)
    rows = ds.dataset(f"{output}/table").to_table().to_pylist()
    adjusted = ds.dataset(f"{output}/adjusted/table").to_table().to_pylist()
    assert [row["key"] for row in adjusted] == [row["key"] for row in rows]
    assert mix.images == len(rows) == 300
    trained, estimated = (np.array([*shares.values()]) for shares in (mix.trained, mix.estimated))
    assert trained == pytest.approx([(k + 1) / 55 for k in range(10)], abs=1e-5)
    assert estimated.sum() == pytest.approx(1, abs=1e-4)
    changed = 0
    for row, new in zip(rows, adjusted, strict=True):
        expected = np.array(row["probabilities"]) * estimated / trained
        expected /= expected.sum()
        assert new["adjusted_probability"] == pytest.approx(expected.max(), abs=1e-3)
        assert (new["label"], new["probability"]) == (row["label"], row["probability"])
        changed += new["label"] != new["adjusted_label"]
    assert mix.changed == changed > 0
    assert mix.is_shifted
    assert mix.held_out > 0
    assert json.loads(Path(output, "adjusted/mix.json").read_text()) == mix.as_dict()
    (first, _), *others = mix.estimated.items()
    assert mix.low[first] is mix.high[first] is None
    for name, share in others:
        low, high = mix.low[name], mix.high[name]
        assert low is not None
        assert high is not None
        assert low <= share <= high


def test_what_cannot_be_adjusted_is_said(tmp_path: Path, model: Path, weighted: Path) -> None:
    output = classify(tmp_path, weighted, columns=("key", "label", "probability"))
    with pytest.raises(InputError, match="the table has no column top_k_labels; classify with it"):
        adjust_labels(output)
    output = classify(tmp_path, weighted, format="csv", overwrite=True)
    with pytest.raises(InputError, match=r"the table is csv; classify with bulk\.format parquet"):
        adjust_labels(output)
    output = classify(tmp_path, model, overwrite=True)
    with pytest.raises(InputError, match="does not know the class shares of its training data"):
        adjust_labels(output)
