"""Pretraining: what turns are, what a training takes from it, and that a stopped one resumes."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.trainer import tiny
from trainer.config import ImageConfig, TrainerConfig, check_consistent
from trainer.data.input_pipeline import ImageSet
from trainer.model_card import ModelCard
from trainer.optimization.callbacks import TrainingProgress
from trainer.optimization.pretraining import TURNS, turn
from trainer.optimization.warm_start import Base, WarmStart, fit_base
from trainer.search.tuning import shortened
from trainer.train import TrainResult

_SHAPE = (12, 12, 1)
_STAGE = "pretraining"


def _splits() -> dict[str, ImageSet]:
    free = tiny.image_set(80, seed=5, shape=_SHAPE)
    return {
        "train": tiny.image_set(32, shape=_SHAPE),
        "unlabelled": ImageSet(free.images, np.full(80, -1, np.int32)),
    }


def _options(**changes: Any) -> TrainerConfig:
    pretraining = {"epochs": 2, "batch_size": 16}
    return tiny.trainer_config(
        **{"epochs": 2, "steps_per_call": 2, "pretraining": pretraining, **changes}
    )


def _run(workdir: pathlib.Path, **changes: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "trainer_config": _options(), "data": _splits(), "image_shape": _SHAPE,
        **changes,
    }  # fmt: skip
    return tiny.run(workdir, **arguments)


def test_images_are_turned_anticlockwise() -> None:
    images = np.random.default_rng(0).random((9, 6, 6, 3)).astype(np.float32)
    turns = np.array([0, 1, 2, 3, 3, 2, 1, 0, 1], np.int32)
    turned = turn(images, turns).numpy()
    for image, count, result in zip(images, turns, turned, strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, count))


@dataclasses.dataclass
class Whole:
    """A training after a pretraining, what it reported and what it took from the pretraining."""

    result: TrainResult
    events: list[TrainingProgress]
    base: Base
    start: WarmStart


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    events: list[TrainingProgress] = []
    taken: list[tuple[Base, WarmStart]] = []

    def fit(base: Base, *others: Any) -> WarmStart:
        taken.append((base, fit_base(base, *others)))
        return taken[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.optimization.model_factory.fit_base", fit)
        result = _run(tmp_path_factory.mktemp("whole"), progress=events.append)
    ((base, start),) = taken
    return Whole(result, events, base, start)


def test_all_images_are_learned_from_before_the_labels(whole: Whole) -> None:
    stages = [event.stage for event in whole.events]
    first = stages.index("")
    assert set(stages[:first]) == {_STAGE}
    assert set(stages[first:]) == {""}
    # 112 images, twice, in batches of 16; then 32 images, twice.
    last = whole.events[first - 1]
    assert last.step == last.total_steps == 14
    assert whole.events[-1].total_steps == whole.result.steps == 4
    assert whole.events[0].line().startswith("pretraining: step ")


def test_a_training_begins_with_what_does_not_depend_on_classes(whole: Whole) -> None:
    assert whole.base.classes == TURNS
    assert whole.start.new == ["classifier/kernel", "classifier/bias"]
    # Four steps later the weights are still near.
    for name, weight in zip(whole.start.names, whole.result.model.learned_weights, strict=True):
        if name not in whole.start.new:
            np.testing.assert_allclose(weight.numpy(), whole.base.weights[name], atol=0.05)
    # To those who ask it has not begun with an earlier model.
    assert whole.result.warm_start is None


def test_a_training_says_what_it_learned_before_the_classes(whole: Whole) -> None:
    assert whole.result.pretraining is not None
    card = ModelCard.model_validate({"pretraining": whole.result.pretraining.as_dict()})
    assert card.pretraining is not None
    assert (card.pretraining.images, card.pretraining.epochs) == (112, 2)
    assert 0 < whole.result.pretraining.told_right < 1
    assert card.pretraining.line.startswith("pretraining: 2 passes over 112 images; at their end ")


def test_a_pretraining_that_was_stopped_goes_on(tmp_path: pathlib.Path, whole: Whole) -> None:
    config = _options(checkpoints={"every_secs": 0})

    def stop(event: TrainingProgress) -> None:
        if event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, trainer_config=config, progress=stop)
    events: list[TrainingProgress] = []
    resumed = _run(tmp_path, trainer_config=config, progress=events.append)
    assert 0 < events[0].step < 14
    assert events[0].stage == _STAGE
    np.testing.assert_allclose(
        tiny.flat_weights(resumed), tiny.flat_weights(whole.result), rtol=1e-3, atol=1e-4
    )
    events.clear()
    again = _run(tmp_path, trainer_config=config, progress=events.append)
    assert events == []
    assert resumed.pretraining is not None
    assert again.pretraining is not None
    assert again.pretraining.line() == resumed.pretraining.line()


def test_turns_of_what_has_an_upper_side_are_learned(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 60, (96, *_SHAPE), dtype=np.uint8)
    images[:, :4] += 150
    data = {"train": ImageSet(images, draw.integers(0, tiny.CLASSES, 96).astype(np.int32))}
    pretraining = {"epochs": 40, "batch_size": 32}
    with caplog.at_level("INFO"):
        result = _run(
            tmp_path,
            data=data,
            trainer_config=_options(
                epochs=0.2, pretraining=pretraining, optimizer={"learning_rate": 0.01}
            ),
        )
    (line,) = [text for text in caplog.messages if text.startswith("pretraining: 40 passes")]
    assert result.pretraining is not None
    assert line == result.pretraining.line()
    assert result.pretraining.told_right > 0.8


def test_an_earlier_model_takes_its_place(tmp_path: pathlib.Path) -> None:
    events: list[TrainingProgress] = []
    config = _options(epochs=0.1)
    result = _run(
        tmp_path,
        trainer_config=config,
        base=Base("earlier", "0" * 16, (), {}),
        progress=events.append,
    )
    assert {event.stage for event in events} == {""}
    assert result.warm_start is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_minutes": 3}, r"trainer\.pretraining\.epochs: .* trainer\.max_minutes to 0"),
        ({"augmentation": {"rotation": 90}}, r"trainer\.augmentation\.rotation = 90 hides"),
    ],
)
def test_pretraining_has_limits(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _options(**changes)


def test_pretraining_needs_square_images_and_random_weights() -> None:
    square = ImageConfig(height=32, width=32, channels=3)
    with pytest.raises(ValueError, match="turns square images, image is 12x10"):
        check_consistent(tiny.IMAGE, tiny.model_config(), _options())
    check_consistent(square, tiny.model_config(), _options())
    learned = tiny.model_config(encoder="backbone", decoder="mlp")
    with pytest.raises(ValueError, match=r"weights = imagenet has learned to see already"):
        check_consistent(square, learned, _options())


def test_a_trial_of_the_tuner_pretrains_in_proportion() -> None:
    assert shortened(_options(), 1).pretraining.epochs == 1
