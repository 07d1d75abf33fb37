"""Temperature, thresholds and outlier scores."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial import distance

from tests.components.model_gate.measured import equal_mass_error
from tests.trainer import tiny
from trainer.quality import calibration, evaluation, outliers, summaries
from trainer.quality.confidence_grid import (
    ConfidenceGrid,
    expected_calibration_error,
    grid_of,
)
from trainer.quality.held_out import read_held_out, write_held_out
from trainer.quality.synthetic_outliers import synthetic_outliers


def _overconfident(count: int, factor: float, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times too large for labels that are drawn from them."""
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=spread, size=(count, 4))
    probabilities = np.exp(evaluation.log_softmax(logits))
    labels = (draw.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return logits * factor, labels


def test_temperature_undoes_overconfidence() -> None:
    logits, labels = _overconfident(4000, 3.0)
    temperature = calibration.fit_temperature(logits, labels)
    assert temperature.gain > temperature.standard_error
    assert temperature.value == pytest.approx(3.0, rel=0.1)
    before, after = (
        expected_calibration_error(np.exp(evaluation.log_softmax(logits / value)), labels)
        for value in (1.0, temperature.value)
    )
    assert after < 0.25 * before


def test_the_card_and_the_gate_measure_the_same_calibration_error() -> None:
    """Too sure above 0.97 and too unsure below: in one bin of equal width both would cancel."""
    draw = np.random.default_rng(4)
    confidence = draw.uniform(0.94, 1.0, 4000)
    right = draw.random(4000) < np.where(confidence > 0.97, confidence - 0.05, 1.0)
    probabilities = np.stack([confidence, 1.0 - confidence], axis=1)
    found = expected_calibration_error(probabilities, np.where(right, 0, 1))
    assert 0.03 < found < 0.06
    assert found == pytest.approx(equal_mass_error(confidence, right), abs=1e-3)
    # Each half of the answers in a grid of its own, as the gate's workers fill them.
    grid, other = ConfidenceGrid(), ConfidenceGrid()
    grid.add_all(confidence[:700], right[:700])
    other.add_all(confidence[700:], right[700:])
    grid.merge(other)
    assert grid.calibration_error() == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("images", [60, 1000])
@pytest.mark.parametrize("power", [0.3, 2.0, 20.0], ids=["unsure", "usual", "nearly certain"])
def test_chance_gives_a_calibrated_model_the_error_that_is_stated(
    images: int, power: float
) -> None:
    """Labels are drawn from the confidences themselves, so every deviation is chance."""
    draw = np.random.default_rng(5)
    confidence = 1.0 - 0.5 * draw.random(images) ** power
    errors = []
    for _ in range(200):
        grid = ConfidenceGrid()
        grid.add_all(confidence, draw.random(images) < confidence)
        errors.append(grid.calibration_error())
    stated = grid.chance_error()
    assert stated.mean == pytest.approx(np.mean(errors), rel=0.12)
    assert stated.mean < stated.high
    assert 0.01 <= np.mean(np.array(errors) > stated.high) <= 0.12


def test_chance_error_of_probabilities_is_that_of_their_grid() -> None:
    draw = np.random.default_rng(6)
    probabilities = draw.dirichlet(np.ones(5), 300)
    grid = ConfidenceGrid()
    labels = draw.integers(0, 5, 300)
    grid.add_all(probabilities.max(axis=1), draw.random(300) < 0.5)
    assert grid_of(probabilities, labels).chance_error() == grid.chance_error()
    assert all(math.isnan(value) for value in ConfidenceGrid().chance_error())


@pytest.mark.parametrize("count", [1, 2, 7])
def test_chance_error_of_fewer_images_than_bins(count: int) -> None:
    """Each image is then a bin, whose expected error is 2 c (1 - c)."""
    grid = ConfidenceGrid()
    for _ in range(count):
        grid.add(0.7, right=True)
    stated = grid.chance_error()
    assert stated.mean == pytest.approx(2 * 0.7 * 0.3, abs=0.1)
    assert stated.mean < stated.high < 1.0


@pytest.mark.parametrize("images", [2, 40, 137])
def test_a_few_right_answers_do_not_make_the_model_certain(images: int) -> None:
    logits = np.zeros((images, 4))
    logits[:, 0] = np.random.default_rng(7).uniform(3.0, 8.0, images)
    temperature = calibration.fit_temperature(logits, np.zeros(images, int))
    assert 0.5 < temperature.value < 1.0


@pytest.mark.parametrize(("factor", "images"), [(1.0, 20), (1.0, 100), (3.0, 20), (0.5, 100)])
def test_a_temperature_from_few_images_does_no_harm_on_others(factor: float, images: int) -> None:
    logits, labels = _overconfident(4000, factor, spread=6.0)
    draw = np.random.default_rng(8)
    gains = []
    for _ in range(20):
        few = draw.permutation(len(labels))[:images]
        value = calibration.fit_temperature(logits[few], labels[few]).value
        after = evaluation.negative_log_likelihood(logits / value, labels)
        gains.append(evaluation.negative_log_likelihood(logits, labels) - after)
    assert np.mean(gains) > -0.02


def test_a_split_is_not_kept_with_results_that_nobody_needs() -> None:
    images = tiny.image_set(5).images
    forward = evaluation.Forward(
        lambda pixels: {"sum": tf.reduce_sum(pixels, axis=(1, 2, 3)), "pixels": pixels},
        tiny.SHAPE,
        2,
    )
    assert set(forward(images)) == {"sum", "pixels"}
    (found,) = forward(images, "sum").items()
    assert found[0] == "sum"
    np.testing.assert_allclose(found[1], (images / 255.0).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_auroc_counts_pairs() -> None:
    assert calibration.auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert calibration.auroc(np.array([1.0, 3.0]), np.array([2.0, 3.0])) == pytest.approx(0.625)


def test_conformal_threshold_holds_its_rate() -> None:
    draw = np.random.default_rng(1)
    rates, inside = [], 0
    for _ in range(400):
        threshold, (low, high) = calibration.conformal_threshold(draw.random(199), 0.05)
        rates.append(1.0 - threshold)  # Uniform scores: the exact rate.
        inside += low <= 1.0 - threshold <= high
    assert np.mean(rates) == pytest.approx(0.05, abs=0.003)
    assert inside / 400 == pytest.approx(0.95, abs=0.04)


def test_too_few_images_for_a_rate_catch_nothing() -> None:
    threshold, interval = calibration.conformal_threshold(np.arange(20.0), 0.01)
    assert threshold == np.inf
    assert interval[0] == 0


def test_synthetic_outliers_keep_shape_and_are_repeatable() -> None:
    images = tiny.image_set(10, shape=(9, 8, 3)).images
    first, second = (synthetic_outliers(images, seed=4) for _ in range(2))
    for kind, changed in first.items():
        assert changed.shape == images.shape
        assert changed.dtype == np.uint8
        assert (changed != images).any()
        np.testing.assert_array_equal(changed, second[kind])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.TrainResult:
    return tiny.run(
        tmp_path_factory.mktemp("run"),
        trainer_config=tiny.trainer_config(epochs=15, optimizer={"learning_rate": 5e-3}),
        data={**tiny.splits(320), "calibration": tiny.image_set(400, seed=2)},
        fit_scores=True,
    )


def test_verdicts_have_the_stated_rate_on_fresh_images(trained: tiny.TrainResult) -> None:
    thresholds = trained.calibration["thresholds"]
    fresh = tiny.image_set(2000, seed=9)
    results = trained.model.analyse(fresh.images.astype(np.float32) / 255.0)
    rate = float(np.mean(results["is_outlier"]))
    low, high = thresholds["review"]["interval"]
    error = 2.0 * np.sqrt(0.05 * 0.95 / 2000)
    assert low - error < rate < high + error
    assert set(np.unique(results["verdict"])) <= {0, 1, 2}
    noise = np.random.default_rng(0).random((200, *tiny.SHAPE)).astype(np.float32)
    assert float(np.mean(trained.model.analyse(noise)["is_outlier"])) > 0.9


def test_report_and_summaries_are_plain_values(trained: tiny.TrainResult) -> None:
    report = json.loads(json.dumps(trained.calibration, allow_nan=False))
    assert report["split"] == "calibration"
    assert report["outlier_score"]["chosen"] == trained.model.scores.score
    assert set(report["outlier_score"]["mean_auroc"]) >= {"bound", "combined", "neighbours"}
    summary = json.loads(json.dumps(trained.summaries, allow_nan=False))
    assert summary["images"] == 400
    assert sum(summary["pixels"]["histogram"]) == pytest.approx(1.0)
    assert sum(summary["classes"]) == pytest.approx(1.0)
    assert sum(summary["priors"]) == pytest.approx(1.0)
    assert len(summary["latent"]["quantiles"]) == 4


def test_held_out_answers_are_those_of_the_calibrated_model(
    trained: tiny.TrainResult, tmp_path: pathlib.Path
) -> None:
    held_out = tiny.image_set(400, seed=2)
    results = trained.model.analyse(held_out.images.astype(np.float32) / 255.0)
    assert trained.held_out is not None
    path = str(tmp_path / "held_out.npz")
    write_held_out(trained.held_out, path)
    answers = read_held_out(path)
    probabilities = results["probabilities"].numpy()
    assert len(answers) == 400
    np.testing.assert_array_equal(answers.given, held_out.labels)
    np.testing.assert_array_equal(answers.label, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(answers.is_wrong, answers.label != held_out.labels)
    np.testing.assert_allclose(answers.probability, probabilities.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        answers.outlier_score, results["outlier_score"], rtol=1e-3, atol=1e-3
    )


def test_only_labelled_images_of_a_calibration_split_are_held_out(tmp_path: pathlib.Path) -> None:
    splits = tiny.splits(96)
    labels = splits["calibration"].labels.copy()
    labels[::2] = -1
    some = dataclasses.replace(splits["calibration"], labels=labels)
    config = tiny.trainer_config(epochs=1)
    data = {**splits, "calibration": some}
    partly = tiny.run(tmp_path / "1", trainer_config=config, data=data, fit_scores=True)
    assert partly.held_out is not None
    np.testing.assert_array_equal(partly.held_out.given, labels[1::2])
    # Drift is judged by images that the model has not learned, if need be by both splits.
    assert partly.summaries["images"] == 64 + 48
    # The best weights are those of the best validation, so it is no held-out split.
    del splits["calibration"]
    without = tiny.run(tmp_path / "2", trainer_config=config, data=splits, fit_scores=True)
    assert without.calibration["split"] == "validation"
    assert without.held_out is None
    assert without.summaries["images"] == 48


def test_pixel_summary_of_known_images() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[1] = 255
    summary = summaries.pixel_summary(images)
    assert summary["histogram"][0] == summary["histogram"][-1] == 0.5
    assert summary["contrast"] == [0.0] * 7


def test_calibrated_model_is_saved_whole(trained: tiny.TrainResult, tmp_path: pathlib.Path) -> None:
    import keras

    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = tiny.image_set(8, seed=3).images.astype(np.float32) / 255.0
    np.testing.assert_array_equal(
        loaded.analyse(images)["outlier_score"], trained.model.analyse(images)["outlier_score"]
    )


def test_distances_to_neighbours_are_precise_where_images_are_alike() -> None:
    scores = tiny.build(tiny.model_config()).scores
    size, components = scores.projection.shape
    draw = np.random.default_rng(0)
    features = (1 + 1e-3 * draw.normal(size=(scores.bank_size, size))).astype(np.float32)
    directions = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    projection = np.linalg.qr(draw.normal(size=(size, components)))[0].astype(np.float32)
    bank = (directions @ projection).astype(np.float32)
    scores.projection.assign(projection)
    scores.bank.assign(bank)
    similarity = np.sort(directions @ projection @ bank.T.astype(np.float64), axis=1)
    expected = 2 - 2 * similarity[:, -scores.neighbours]
    # In float32 the difference would be wrong by 1e-7 and more.
    found = scores.neighbour_distance(features).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7)


def test_relative_distance_is_that_of_scipy() -> None:
    data = tiny.image_set(300, seed=1)
    model = tiny.build(tiny.model_config())
    config = tiny.trainer_config().calibration
    calibration.calibrate(model, train=data, calibration=data.take(np.arange(40)), config=config,
                          seed=0)  # fmt: skip
    features = model.encode(data.images / np.float32(255)).features.numpy().astype(np.float64)
    projected = features @ model.scores.projection.numpy()
    means = np.stack([projected[data.labels == k].mean(axis=0) for k in range(tiny.CLASSES)])

    def inverse(differences: np.ndarray) -> np.ndarray:
        covariance = np.cov(differences.T, bias=True)
        least = max(1e-3 * np.trace(covariance) / len(covariance), 1e-6)
        return np.linalg.inv(covariance + least * np.eye(len(covariance)))

    within, every = inverse(projected - means[data.labels]), inverse(projected)
    classes = distance.cdist(projected, means, "mahalanobis", VI=within) ** 2
    centre = projected.mean(axis=0, keepdims=True)
    background = distance.cdist(projected, centre, "mahalanobis", VI=every)[:, 0] ** 2
    found = model.scores.relative_distance(features.astype(np.float32)).numpy()
    np.testing.assert_allclose(found, classes.min(axis=1) - background, rtol=1e-3, atol=1e-3)
    # An image of another class is as far from the known ones as from all images.
    strange = (0.5 * (features[data.labels == 0][:50] + features[data.labels == 2][:50])).astype(
        np.float32
    )
    assert calibration.auroc(found, model.scores.relative_distance(strange).numpy()) > 0.9


def test_far_terms_count_little_within_what_good_images_have() -> None:
    scores = tiny.build().scores
    terms = {name: np.full(4, -3, np.float32) for name in outliers.COMBINED_TERMS}
    terms["relative_mahalanobis"] = np.array([-1, 0, 2, 2], np.float32)
    terms["neighbours"] = np.array([-5, 0, 1, 5], np.float32)
    terms["relative_error"] = np.array([-3, -3, -3, 7], np.float32)
    found = scores.combine(terms, "combined").numpy()
    np.testing.assert_allclose(found, [-1, 0.0162, 2 + np.log(2) / 3, 12], atol=1e-4)
    np.testing.assert_allclose(scores.combine(terms, "neighbours"), [-3, 0, 1, 5], rtol=1e-6)


def test_a_few_images_that_are_alike_give_no_tiny_scale() -> None:
    data = tiny.image_set(40, seed=1)
    alike = data.take(np.zeros(3, np.int64))
    model = tiny.build(tiny.model_config())
    config = tiny.trainer_config().calibration
    calibration.calibrate(model, train=data, calibration=alike, config=config, seed=0)
    scale, centre = model.scores.scale.numpy(), model.scores.centre.numpy()
    assert (scale >= 0.019 * np.abs(centre)).all()


def test_one_confidence_falls_into_the_cell_that_an_array_of_it_does() -> None:
    values = np.concatenate([np.linspace(0, 1, 2_001), 1 - np.logspace(-8, -1, 200)])
    one_by_one, together = ConfidenceGrid(), ConfidenceGrid()
    for value in values.tolist():
        one_by_one.add(value, value > 0.5)
    together.add_all(values, values > 0.5)
    assert one_by_one.calibration_error() == pytest.approx(together.calibration_error(), rel=1e-9)
