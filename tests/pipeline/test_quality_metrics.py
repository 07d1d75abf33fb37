"""Our TFMA metrics against closed computations with numpy; accumulators are merged and pickled."""

import itertools
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.model_gate import metric_names as m
from serving import names
from tests.components.model_gate.measured import equal_mass_error, measure, probabilities
from trainer.data import features
from trainer.quality.confidence_grid import ConfidenceGrid, grid_of

tfma = pytest.importorskip("tensorflow_model_analysis")
config_pb2 = pytest.importorskip("tensorflow_model_analysis.proto.config_pb2")

IMAGES, CLASSES = 600, 4
PARTS = (0, 1, 250, 251, IMAGES)


def drawn(seed: int) -> np.ndarray:
    return probabilities(np.random.default_rng(seed).normal(0, 2, [IMAGES, CLASSES]))


def labels() -> np.ndarray:
    return np.random.default_rng(7).integers(0, CLASSES, IMAGES)


def run(computations: list[Any], inputs: list[Any]) -> dict[str, Any]:
    """Runs combiners as Beam does: several accumulators, sent between processes, merged."""
    results: dict[str, Any] = {}
    for computation in computations:
        combiner = computation.combiner
        accumulators = []
        for start, stop in itertools.pairwise(PARTS):
            accumulator = combiner.create_accumulator()
            for element in inputs[start:stop]:
                accumulator = combiner.add_input(accumulator, element)
            accumulators.append(pickle.loads(pickle.dumps(accumulator)))
        merged = combiner.merge_accumulators([combiner.create_accumulator(), *accumulators])
        found = combiner.extract_output(merged)
        assert set(found) == set(computation.keys)
        results |= {key.name: value for key, value in found.items()}
    return results


def one_model(outputs: dict[str, np.ndarray]) -> list[Any]:
    return [
        tfma.metrics.StandardMetricInputs(
            labels=np.array([label]),
            predictions={name: values[i] for name, values in outputs.items()},
        )
        for i, label in enumerate(labels())
    ]


def test_qualities_of_probabilities_are_those_of_keras_and_numpy() -> None:
    import keras

    from pipeline.quality_metrics.classification import ClassificationQuality

    made = drawn(1)
    # Beyond Keras's clipping, at both ends; and equal probabilities at the border of the best two.
    made[:2] = [[1.0, 0.0, 0.0, 0.0], [0.4, 0.2, 0.2, 0.2]]
    computations = ClassificationQuality(top_k=2).computations(eval_config=config_pb2.EvalConfig())
    found = run(computations, one_model({names.PROBABILITIES: made}))
    right = made.argmax(axis=1) == labels()
    assert found[m.ACCURACY] == pytest.approx(right.mean())
    (matrix,) = found[m.CONFUSION].to_proto().multi_class_confusion_matrix_at_thresholds.matrices
    pairs = Counter(zip(labels().tolist(), made.argmax(axis=1).tolist(), strict=True))
    assert pairs == {
        (entry.actual_class_id, entry.predicted_class_id): entry.num_weighted_examples
        for entry in matrix.entries
    }
    near = keras.metrics.sparse_top_k_categorical_accuracy(labels(), made.astype(np.float32), k=2)
    assert found[m.TOP_K] == pytest.approx(np.mean(near))
    loss = keras.losses.sparse_categorical_crossentropy(labels(), made)
    assert found[m.LOG_LOSS] == pytest.approx(np.mean(loss), rel=1e-6)
    error = equal_mass_error(made.max(axis=1), right)
    assert found[m.CALIBRATION_ERROR] == pytest.approx(error, abs=1e-3)
    chance = grid_of(made, labels()).chance_error()
    assert found[m.CALIBRATION_CHANCE] == pytest.approx(chance.mean, rel=1e-6)
    assert found[m.CALIBRATION_CHANCE_HIGH] == pytest.approx(chance.high, rel=1e-6)
    brier = np.square(made - np.eye(CLASSES)[labels()]).sum(axis=1).mean()
    assert found[m.BRIER] == pytest.approx(brier)


def test_calibration_error_of_equal_confidences_does_not_follow_their_order() -> None:
    right = np.arange(300) < 270
    grids = [ConfidenceGrid(), ConfidenceGrid()]
    grids[0].add_all(np.full(300, 0.8), right)
    grids[1].add_all(np.full(300, 0.8), right[::-1])
    for grid in grids:
        assert grid.calibration_error() == pytest.approx(0.1)
    assert math.isnan(ConfidenceGrid().calibration_error())


def test_many_images_take_no_more_cells_than_there_are() -> None:
    draw = np.random.default_rng(3)
    confidence = 1 - 10.0 ** draw.uniform(-7, -0.3, 30_000)
    right = draw.random(30_000) < confidence - 0.02
    grid = ConfidenceGrid()
    grid.add_all(confidence, right)
    assert len(pickle.dumps(grid)) < 400_000
    assert grid.calibration_error() == pytest.approx(equal_mass_error(confidence, right), abs=2e-4)


def test_outputs_are_averaged_and_their_quantiles_found() -> None:
    from pipeline.quality_metrics.outputs import ModelOutputs

    draw = np.random.default_rng(5)
    elbo, score = draw.normal(-90, 5, IMAGES), draw.exponential(1.0, IMAGES)
    score[17] = np.inf
    bound = np.where(np.arange(IMAGES) % 3, np.nan, elbo + 2)
    inputs = one_model(
        {
            names.PROBABILITIES: drawn(1),
            names.ELBO: elbo,
            names.OUTLIER_SCORE: score,
            names.IMPORTANCE_BOUND: bound,
            names.IMPORTANCE_ELBO: bound - 1,
        }
    )
    metric = ModelOutputs(dimensions=64, importance_samples=50)
    found = run(metric.computations(eval_config=config_pb2.EvalConfig()), inputs)
    measured = bound[::3]
    assert found[m.IMPORTANCE_IMAGES] == len(measured)
    assert found[m.IMPORTANCE_SAMPLES] == 50
    assert found[m.IMPORTANCE_BOUND] == pytest.approx(measured.mean())
    assert found[m.IMPORTANCE_ELBO] == pytest.approx(measured.mean() - 1)
    error = measured.std(ddof=1) / math.sqrt(len(measured))
    assert found[m.IMPORTANCE_ERROR] == pytest.approx(error)
    assert found[m.IMPORTANCE_BITS] == pytest.approx(-measured.mean() / 64 / math.log(2))
    assert found[m.ELBO] == pytest.approx(elbo.mean())
    assert found[m.BITS] == pytest.approx(-elbo.mean() / 64 / math.log(2))
    finite = np.sort(score[np.isfinite(score)])
    for level, name in m.OUTLIER_QUANTILES.items():
        rank = np.searchsorted(finite, found[name]) / len(finite)
        assert rank == pytest.approx(level, abs=0.005)


def test_outputs_that_an_older_model_does_not_give_are_not_measured() -> None:
    from pipeline.quality_metrics.outputs import ModelOutputs

    inputs = one_model({names.PROBABILITIES: drawn(1)})
    found = run(
        ModelOutputs(dimensions=64).computations(eval_config=config_pb2.EvalConfig()), inputs
    )
    counts = (m.IMPORTANCE_IMAGES, m.IMPORTANCE_SAMPLES)
    assert all(math.isnan(value) for name, value in found.items() if name not in counts)
    assert found[m.IMPORTANCE_IMAGES] == 0


def two_models(candidate: dict[str, np.ndarray], baseline: dict[str, np.ndarray]) -> list[Any]:
    return [
        tfma.metrics.StandardMetricInputs(
            labels={"candidate": np.array([label]), "baseline": np.array([label])},
            predictions={
                "candidate": {name: values[i] for name, values in candidate.items()},
                "baseline": {name: values[i] for name, values in baseline.items()},
            },
        )
        for i, label in enumerate(labels())
    ]


def paired_computations() -> list[Any]:
    from pipeline.quality_metrics.change import PairedChange

    config = config_pb2.EvalConfig()
    config.model_specs.add(name="candidate")
    config.model_specs.add(name="baseline", is_baseline=True)
    return PairedChange().computations(
        eval_config=config, model_names=["candidate", "baseline"], output_names=[""]
    )


def test_gains_losses_and_flips_are_counted_on_the_same_images() -> None:
    new, old = drawn(1), drawn(2)
    found = run(
        paired_computations(),
        two_models({names.PROBABILITIES: new}, {names.PROBABILITIES: old}),
    )
    assert found == pytest.approx(measure(new, labels(), baseline=old).overall.paired)


def test_labels_flip_by_name_and_not_by_number() -> None:
    made = drawn(1)
    texts = np.array([b"a", b"b", b"c", b"d"])[made.argmax(axis=1)]
    # The same answers of a model that numbers its classes the other way round.
    turned = made[:, ::-1]
    found = run(
        paired_computations(),
        two_models(
            {names.PROBABILITIES: made, names.LABEL: texts},
            {names.PROBABILITIES: turned, names.LABEL: texts},
        ),
    )
    assert found[m.PAIRED_FLIPS] == 0


def test_without_a_baseline_nothing_is_compared() -> None:
    from pipeline.quality_metrics.change import PairedChange

    config = config_pb2.EvalConfig(model_specs=[config_pb2.ModelSpec()])
    assert PairedChange().computations(eval_config=config, model_names=[""]) == []


def test_the_configuration_names_slices_and_metrics_that_tfma_finds() -> None:
    from tensorflow_model_analysis.metrics import metric_specs

    from pipeline.config import PipelineConfig
    from pipeline.evaluation import create_eval_config

    sections = {"input": {"paths": "a.zip"}, "evaluation": {"slices": ["size"], "top_k": 2}}
    config = create_eval_config(PipelineConfig.model_validate(sections))
    assert [list(spec.feature_keys) for spec in config.slicing_specs] == [[], ["size"]]
    first = tfma.utils.update_eval_config_with_defaults(config, has_baseline=False)
    computed = metric_specs.to_computations(first.metrics_specs, eval_config=first)
    found = {key.name for computation in computed for key in computation.keys}
    assert {m.EXAMPLE_COUNT, m.ACCURACY, m.TOP_K, m.LOG_LOSS, m.CONFUSION} <= found
    assert {m.CALIBRATION_ERROR, m.BRIER, m.ELBO, m.BITS} <= found
    assert m.PAIRED_FLIPS not in found
    second = tfma.utils.update_eval_config_with_defaults(config, has_baseline=True)
    computed = metric_specs.to_computations(second.metrics_specs, eval_config=second)
    by_model = {(key.name, key.model_name) for one in computed for key in one.keys}
    assert (m.PAIRED_FLIPS, "candidate") in by_model
    assert (m.ACCURACY, "baseline") not in by_model


@pytest.mark.parametrize(
    ("name", "label", "archive"),
    [
        (b"/data/a.zip/train/7/1.png", b"7", b"/data/a.zip"),
        (b"b.tar.gz/cat/x.y.jpg", b"cat", b"b.tar.gz"),
        (b"/data/flowers/rose/1.jpg", b"rose", b"/data/flowers"),
        (b"gs://bucket/part/2/1.jpg", b"dog", b"gs://bucket/part/2"),
        (b"/data/train-0.parquet/00000012/a/1.jpg", b"3", b"/data/train-0.parquet"),
        (b"a.tfrec/00000012/1.jpg", b"3", b"a.tfrec"),
        (b"a.tfrecord-00001-of-00010/00000012/1.jpg", b"3", b"a.tfrecord-00001-of-00010"),
        (b"a.tbz/3/1.jpg", b"3", b"a.tbz"),
        (b"train-images-idx3-ubyte.gz/00012", b"3", b"train-images-idx3-ubyte.gz"),
    ],
)
def test_the_archive_is_read_from_the_file_name(name: bytes, label: bytes, archive: bytes) -> None:
    from pipeline import slices

    assert slices.archive(name, label) == archive


def test_sizes_are_octaves_of_the_longer_side() -> None:
    from pipeline import slices

    assert [slices.size(*side) for side in ((1, 1), (8, 3), (9, 2), (32, 32), (20, 33))] == [
        "1-8 px", "1-8 px", "9-16 px", "17-32 px", "33-64 px",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([], []),
        ([1], [1]),
        ([300], [256, 44]),
        ([100, 156, 1000, 200], [256, 256, 256, 256, 256, 176]),
    ],
)
def test_a_model_gets_batches_of_one_size(given: list[int], sizes: list[int]) -> None:
    from pipeline import slices

    def records(start: int, count: int, name: str = "place") -> Any:
        places = [[place] for place in range(start, start + count)]
        return pa.RecordBatch.from_arrays([pa.array(places, pa.list_(pa.int64()))], [name])

    def batches(parts: list[Any]) -> list[Any]:
        equal = slices._EqualBatches()
        equal.start_bundle()
        extracts = [{tfma.ARROW_RECORD_BATCH_KEY: part} for part in parts]
        made = [found for each in extracts for found in equal.process(each)]
        made += [found.value for found in equal.finish_bundle()]
        return [found[tfma.ARROW_RECORD_BATCH_KEY] for found in made]

    starts = np.cumsum([0, *given]).tolist()
    found = batches([records(start, count) for start, count in zip(starts, given, strict=False)])
    assert [batch.num_rows for batch in found] == sizes
    rows = [row for batch in found for row in batch["place"].to_pylist()]
    assert rows == [[place] for place in range(sum(given))]
    other = batches([records(0, 3), records(3, 5, "another"), records(8, 2, "another")])
    assert [(batch.num_rows, batch.schema.names) for batch in other] == [
        (3, ["place"]),
        (7, ["another"]),
    ]


def test_batches_of_photographs_are_smaller() -> None:
    from pipeline import slices

    def records(count: int) -> Any:
        photos = pa.array([[b"x" * (1 << 20)]] * count, pa.list_(pa.binary()))
        return pa.RecordBatch.from_arrays([photos], [features.ENCODED])

    equal = slices._EqualBatches()
    equal.start_bundle()
    made = [
        found[tfma.ARROW_RECORD_BATCH_KEY].num_rows
        for count in (10, 30, 40)
        for found in equal.process({tfma.ARROW_RECORD_BATCH_KEY: records(count)})
    ]
    left = [found.value[tfma.ARROW_RECORD_BATCH_KEY].num_rows for found in equal.finish_bundle()]
    # A record has some bytes beside its megabyte, so that 7 fit and 4 are taken.
    assert made == [4] * 20
    assert left == []


def test_an_image_without_label_or_size_has_no_such_slice() -> None:
    from pipeline import slices

    raw = {
        features.ENCODED: np.array([b"png"]),
        features.FILENAME: np.array([b"a.zip/1.png"]),
        features.LABEL_TEXT: np.array([], object),
    }
    made = slices._add_slices({tfma.FEATURES_KEY: raw})[tfma.FEATURES_KEY]
    assert set(made) == {features.FILENAME, features.LABEL_TEXT, "archive"}
