"""The annotator under trouble: memory that runs out, images that the model cannot take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.bulk_inference.annotation import handler
from components.bulk_inference.annotation.handler import Annotator
from components.bulk_inference.annotation.schema import COLUMNS
from components.bulk_inference.config import CLASSIFY_COLUMNS, DECODER_COLUMNS
from components.bulk_inference.model_card import read_card
from serving import names
from tests.components.bulk_inference.archives import digits, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.numeric import assert_same_answers, assert_same_table

Signature = Callable[..., dict[str, Any]]


@pytest.fixture
def annotator(model: Path) -> Annotator:
    return Annotator(read_card(str(model)), workers=2, max_images=256, columns=tuple(COLUMNS))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)


def wrap(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch, check: Callable[[np.ndarray], None]
) -> list[int]:
    """Lets `check` see, and refuse, the pixels of each call; gives the calls' sizes."""
    whole = annotator._signatures[names.ANNOTATE_PIXELS]
    sizes: list[int] = []

    def checked(pixels: np.ndarray) -> dict[str, Any]:
        sizes.append(len(pixels))
        check(pixels)
        return whole(pixels)

    monkeypatch.setitem(annotator._signatures, names.ANNOTATE_PIXELS, checked)
    return sizes


def out_of_memory_above(limit: int) -> Callable[[np.ndarray], None]:
    def check(pixels: np.ndarray) -> None:
        import tensorflow as tf

        if len(pixels) > limit:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    return check


def test_rows_do_not_depend_on_the_batch(annotator: Annotator, images: np.ndarray) -> None:
    whole, _ = annotator.annotate_pixels(images)
    for size in (1, 3, 8, 31, 64, 100, 199):
        parts = [annotator.annotate_pixels(images[at : at + size])[0] for at in range(0, 200, size)]
        joined = {}
        for name in whole:
            joined[name] = np.concatenate([part[name] for part in parts])
        assert_same_answers(joined, whole)


def test_the_model_of_these_tests_is_as_bad_as_a_processor_may_be(
    annotator: Annotator, images: np.ndarray
) -> None:
    # So that a comparison of floats across batches for equality fails wherever it is run.
    embeddings = [annotator.annotate_pixels(images[:n])[0][names.EMBEDDING] for n in (64, 128)]
    assert (embeddings[0] != embeddings[1][:64]).any()


def test_the_same_batch_gives_the_same_bits(annotator: Annotator, images: np.ndarray) -> None:
    first, _ = annotator.annotate_pixels(images)
    # In other company before and after, as in a resumed job.
    annotator.annotate_pixels(images[:7])
    again, _ = annotator.annotate_pixels(images)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_the_batch_is_halved_when_memory_runs_out_and_stays_so(
    annotator: Annotator, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = annotator.annotate_pixels(images)
    sizes = wrap(annotator, monkeypatch, out_of_memory_above(80))
    outputs, faults = annotator.annotate_pixels(images)
    assert faults == {}
    assert annotator.batch_limit == 64
    # 200 are padded to 256; half of 200 is cut to a whole tile, and 8 are left at the end.
    assert sizes == [256, 64, 64, 64, 8]
    assert_same_answers(outputs, expected)
    sizes.clear()
    annotator.annotate_pixels(images)
    assert max(sizes) == 64


def test_an_image_too_large_for_the_memory_is_refused_alone(
    annotator: Annotator, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap(annotator, monkeypatch, out_of_memory_above(0))
    outputs, faults = annotator.annotate_pixels(images[:3])
    assert outputs == {}
    assert sorted(faults) == [0, 1, 2]
    assert "memory ran out on this image alone" in faults[0]


def test_a_failed_batch_is_bisected(
    annotator: Annotator, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    images[[4, 5, 33]] = 77
    expected, _ = annotator.annotate_pixels(images)

    def refuse(pixels: np.ndarray) -> None:
        import tensorflow as tf

        if (pixels == 77).all(axis=(1, 2, 3)).any():
            raise tf.errors.InvalidArgumentError(None, None, "cannot take 77\nsecond line")

    wrap(annotator, monkeypatch, refuse)
    outputs, faults = annotator.annotate_pixels(images)
    assert faults == dict.fromkeys((4, 5, 33), "cannot take 77")
    good = np.setdiff1d(np.arange(200), [4, 5, 33])
    assert_same_answers(
        {name: value[good] for name, value in outputs.items()},
        {name: value[good] for name, value in expected.items()},
    )


def test_answers_that_are_no_numbers_are_faults(
    annotator: Annotator, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    whole = annotator._signatures[names.ANNOTATE_PIXELS]

    def spoilt(pixels: np.ndarray) -> dict[str, Any]:
        answer = dict(whole(pixels))
        probability = answer[names.PROBABILITY].numpy()
        probability[9] = np.nan
        answer[names.PROBABILITY] = tf.constant(probability)
        return answer

    monkeypatch.setitem(annotator._signatures, names.ANNOTATE_PIXELS, spoilt)
    _, faults = annotator.annotate_pixels(images)
    assert faults == {9: "the model's answer is not a number"}


def test_a_job_that_runs_out_of_memory_finishes_with_the_same_table(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(60))
    run_job(archive)
    expected = read_table(tmp_path / "out")
    monkeypatch.setattr(handler, "_LOADED", {})
    load = handler._load

    def load_small(path: str, workers: int, outputs: tuple[str, ...]) -> dict[str, Signature]:
        signatures = load(path, workers, outputs)
        whole = signatures[names.ANNOTATE_PIXELS]

        def small(pixels: np.ndarray) -> dict[str, Any]:
            out_of_memory_above(20)(pixels)
            return whole(pixels)

        return {**signatures, names.ANNOTATE_PIXELS: small}

    monkeypatch.setattr(handler, "_load", load_small)
    archive_of_large_batches = run_job(archive, units=64, overwrite=True, source_batch=64)
    assert archive_of_large_batches.batch_limit == 15
    assert_same_table(read_table(tmp_path / "out"), expected)
    monkeypatch.setattr(handler, "_LOADED", {})


def matrix_products(annotator: Annotator, images: np.ndarray) -> int:
    """Counts the products of matrices of an annotator's first call, in the graph that runs."""
    from tensorflow.python.eager import context

    context.enable_graph_collection()
    try:
        annotator.annotate_pixels(images)
        metadata = context.export_run_metadata()
    finally:
        context.disable_graph_collection()
    return sum(
        node.op.endswith("MatMul")
        for graphs in metadata.function_graphs
        for node in graphs.post_optimization_graph.node
    )


def test_what_no_column_needs_does_not_run(
    annotator: Annotator, model: Path, images: np.ndarray
) -> None:
    """The model has three matrices for label and embedding, one for the bound, two to decode."""
    card = read_card(str(model))
    columns = [name for name in CLASSIFY_COLUMNS if name not in DECODER_COLUMNS]
    fast = Annotator(card, workers=2, max_images=256, columns=columns)
    assert matrix_products(annotator, images) == 6
    assert matrix_products(fast, images) == 3
    answer, faults = fast.annotate_pixels(images)
    assert faults == {}
    assert set(answer) == {
        "label_index", "probability", "probabilities", "embedding", "top_k_labels",
        "top_k_probabilities",
    }  # fmt: skip
    whole, _ = annotator.annotate_pixels(images)
    assert set(whole) == {*answer, *DECODER_COLUMNS}
    assert_same_answers(answer, {name: whole[name] for name in answer})


def test_a_table_without_the_decoders_columns_has_the_other_ones(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", {**digits(300), "bad.png": b"none"})
    columns = tuple(name for name in CLASSIFY_COLUMNS if name not in DECODER_COLUMNS)
    run_job(archive, output=str(tmp_path / "whole"))
    result = run_job(archive, output=str(tmp_path / "fast"), columns=columns)
    assert (result.rows, result.rejects, result.verdicts) == (300, 1, {})
    fast, whole = read_table(tmp_path / "fast"), read_table(tmp_path / "whole")
    assert fast.column_names == list(columns)
    assert_same_table(fast, whole.select(columns))


def test_small_calls_are_padded_to_few_shapes(
    annotator: Annotator, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = wrap(annotator, monkeypatch, lambda _: None)
    for count in (1, 3, 8, 9, 17, 63, 65, 130):
        annotator.annotate_pixels(images[:count])
    assert sizes == [1, 4, 8, 16, 32, 64, 128, 192]
    assert annotator.annotate_pixels(images[:0]) == ({}, {})
