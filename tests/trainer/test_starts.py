"""Several random starts: the best by the unlabelled images goes on, and a killed run keeps them."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer.config import TrainerConfig
from trainer.data.input_pipeline import ImageSet
from trainer.optimization.callbacks import TrainingProgress
from trainer.optimization.starts import neighbour_disagreement
from trainer.search.tuning import shortened
from trainer.train import TrainResult

_STARTS = 2
_TOTAL = 10


def _data() -> dict[str, ImageSet]:
    free = tiny.image_set(64, seed=5)
    return {
        "train": tiny.image_set(32),
        "unlabelled": ImageSet(free.images, np.full(64, -1, np.int32)),
    }


def _options(**changes: Any) -> TrainerConfig:
    semi = {"starts": _STARTS, "starts_share": 0.4}
    return tiny.trainer_config(
        **{"epochs": 5, "steps_per_call": 1, "semi_supervised": semi, **changes}
    )


def _run(workdir: pathlib.Path, config: TrainerConfig, **changes: Any) -> TrainResult:
    return tiny.run(workdir, trainer_config=config, **{"data": _data(), **changes})


def test_classes_that_share_a_cluster_disagree_more() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 40, (120, 40, 48, 3), np.uint8)
    clusters = np.arange(120) % 4
    images += (50 * clusters).astype(np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    assert neighbour_disagreement(images, clusters) == 0
    # Half of a cluster has the class of another one.
    split = np.where((clusters == 2) & (np.arange(120) < 60), 3, clusters)
    assert 0.08 < neighbour_disagreement(images, split) < 0.17
    assert neighbour_disagreement(images, draw.permutation(clusters)) > 0.6
    assert neighbour_disagreement(images[:2], np.array([0, 1])) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, TrainResult, list[int]]:
    """A finished run: its folder, its result and the steps that it reported."""
    folder, steps = tmp_path_factory.mktemp("whole"), list[int]()
    result = _run(folder, _options(), progress=lambda event: steps.append(event.step))
    return folder, result, steps


def test_the_best_start_goes_on_with_its_own_seed(
    tmp_path: pathlib.Path, whole: tuple[pathlib.Path, TrainResult, list[int]]
) -> None:
    folder, result, steps = whole
    record = json.loads((folder / "starts.json").read_text())
    assert len(record["scores"]) == _STARTS
    assert record["chosen"] == int(np.argmin(record["scores"]))
    # Each start takes 4 of the 10 steps, the best one the other 6.
    assert sorted(set(steps)) == list(range(1, _TOTAL + 1))
    assert steps.count(1) == _STARTS
    assert result.steps == _TOTAL
    assert json.loads((folder / "history.json").read_text()) == result.history

    seed = _options().seed + record["chosen"] * 1_000_003
    alone = _run(tmp_path, _options(seed=seed, semi_supervised={}))
    np.testing.assert_allclose(
        tiny.flat_weights(result), tiny.flat_weights(alone), rtol=1e-3, atol=1e-4
    )


def test_a_run_stopped_during_the_second_start_keeps_the_first(
    tmp_path: pathlib.Path, whole: tuple[pathlib.Path, TrainResult, list[int]]
) -> None:
    seen: list[int] = []

    def stop(event: TrainingProgress) -> None:
        seen.append(event.step)
        if seen.count(1) == _STARTS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, _options(), progress=stop)
    again: list[int] = []
    resumed = _run(tmp_path, _options(), progress=lambda event: again.append(event.step))
    assert again.count(1) == 1
    np.testing.assert_allclose(
        tiny.flat_weights(resumed), tiny.flat_weights(whole[1]), rtol=1e-3, atol=1e-4
    )
    again.clear()
    _run(tmp_path, _options(), progress=lambda event: again.append(event.step))
    assert again == []


def test_without_unlabelled_images_there_is_one_start(tmp_path: pathlib.Path) -> None:
    steps: list[int] = []
    data = tiny.train_only(32)
    _run(tmp_path, _options(), data=data, progress=lambda event: steps.append(event.step))
    assert steps.count(1) == 1
    assert not (tmp_path / "starts.json").exists()


def test_starts_have_limits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"semi_supervised\.starts: .* trainer\.max_minutes to 0"):
        _options(max_minutes=1)
    assert shortened(_options(), 1).semi_supervised.starts == 1
    monkeypatch.setattr("trainer.optimization.strategy.is_clustered", lambda strategy: True)
    with pytest.raises(ValueError, match=r"semi_supervised\.starts: several workers"):
        _run(tmp_path, _options(), strategy=tf.distribute.get_strategy())
