"""Teachers: what they see, what a model learns from their answers, and that it all resumes."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from tests.trainer import tiny
from trainer.config import TrainerConfig
from trainer.data.input_pipeline import ImageSet
from trainer.model_card import ModelCard
from trainer.optimization import preemption, teachers
from trainer.optimization import strategy as strategies
from trainer.optimization.callbacks import TrainingProgress, log_progress
from trainer.optimization.stages import TrainingStage
from trainer.optimization.teachers import Taught, TaughtLoop
from trainer.quality.evaluation import Forward
from trainer.train import TrainResult

_SHAPE = (12, 12, 1)
_FREE = 60


def _splits() -> dict[str, ImageSet]:
    free = tiny.image_set(_FREE, seed=5, shape=_SHAPE)
    return {
        "train": tiny.image_set(32, shape=_SHAPE),
        "unlabelled": ImageSet(free.images, np.full(_FREE, -1, np.int32)),
    }


def _options(semi: dict[str, Any] | None = None, **changes: Any) -> TrainerConfig:
    chosen = {"teachers": 2, "batch_size": 12, **(semi or {})}
    return tiny.trainer_config(
        **{"epochs": 2, "steps_per_call": 2, "semi_supervised": chosen, **changes}
    )


def _run(workdir: pathlib.Path, config: TrainerConfig, **changes: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "trainer_config": config, "data": _splits(), "image_shape": _SHAPE,
        **changes,
    }  # fmt: skip
    return tiny.run(workdir, **arguments)


@dataclasses.dataclass
class Whole:
    """A training with two teachers, and what it reported."""

    result: TrainResult
    events: list[TrainingProgress]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    events: list[TrainingProgress] = []
    result = _run(tmp_path_factory.mktemp("whole"), _options(), progress=events.append)
    return Whole(result, events)


def test_teachers_learn_the_labels_alone(whole: Whole) -> None:
    stages = list(dict.fromkeys(event.stage for event in whole.events))
    assert stages == ["teacher 1 of 2", "teacher 2 of 2", ""]
    for event in whole.events:
        assert (event.parts["unlabelled_elbo"] == 0) == bool(event.stage)
        assert (event.parts["teaching"] == 0) == bool(event.stage)
        # Of the steps of the last calls the means are recorded, too.
        assert 0 <= event.parts["teaching"] < 10


def test_a_training_says_who_taught_it(whole: Whole) -> None:
    taught = whole.result.taught
    assert taught is not None
    assert taught.answers.shape == (_FREE, tiny.CLASSES)
    np.testing.assert_allclose(taught.answers.sum(axis=1), 1.0, atol=1e-4)
    card = ModelCard.model_validate({"taught": taught.as_dict()})
    assert card.taught is not None
    assert (card.taught.teachers, card.taught.images) == (2, _FREE)
    assert re.fullmatch(
        r"teachers: 2 trainings with the labels alone; they give the same class to \d+ % of 60"
        " images without labels",
        card.taught.line,
    )


def test_a_training_with_teachers_that_was_stopped_goes_on(
    tmp_path: pathlib.Path, whole: Whole
) -> None:
    config = _options(checkpoints={"every_secs": 0})

    def stop(event: TrainingProgress) -> None:
        if (event.stage, event.step) == ("teacher 2 of 2", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, config, progress=stop)
    events: list[TrainingProgress] = []
    resumed = _run(tmp_path, config, progress=events.append)
    assert list(dict.fromkeys(event.stage for event in events)) == ["teacher 2 of 2", ""]
    assert events[-1].step == whole.events[-1].total_steps
    np.testing.assert_allclose(
        tiny.flat_weights(resumed), tiny.flat_weights(whole.result), rtol=1e-3, atol=1e-4
    )


def test_images_are_learned_as_the_teachers_answer(tmp_path: pathlib.Path) -> None:
    """The answers are wrong on purpose, so that nothing but them can be the cause."""
    free = tiny.image_set(_FREE, seed=5, shape=_SHAPE)
    wrong = (free.labels + 1) % tiny.CLASSES
    answers = np.full((_FREE, tiny.CLASSES), 0.02, np.float32)
    answers[np.arange(_FREE), wrong] += 1 - answers.sum(axis=1)[0]
    config = _options({"teaching": 20.0}, epochs=30, objective={"alpha": 0.01})
    stage = TrainingStage(
        _splits(),
        strategies.create_strategy(config.devices),
        str(tmp_path),
        preemption.StopRequest(),
        log_progress,
    )
    run = TaughtLoop(
        lambda dtype: tiny.build(None, _SHAPE, body_dtype=dtype),
        config,
        stage,
        taught=Taught(answers, 1, 1.0, "made"),
    )
    run.loop()
    model = run.finish()
    found = Forward(model.analyse, _SHAPE, 16)(free.images)["probabilities"].argmax(axis=1)
    assert np.mean(found == wrong) > 0.9


def test_answers_are_sharpened() -> None:
    sums = np.array([[2.0, 1.0, 1.0], [0.0, 0.0, 4.0]], np.float32)
    for temperature, expected in ((1.0, [0.5, 0.25, 0.25]), (0.5, [4 / 6, 1 / 6, 1 / 6])):
        found = teachers._sharpened(sums, temperature)
        np.testing.assert_allclose(found, [expected, [0.0, 0.0, 1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semi_supervised": {"teachers": 2, "starts": 2}}, "takes the place of several starts"),
        ({"semi_supervised": {"teachers": 2}, "max_minutes": 1}, "no common limit of time"),
    ],
)
def test_options_that_contradict_teachers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerConfig.model_validate(changes)


def test_no_more_answers_than_a_device_holds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "_MOST_BYTES", 4 * _FREE * tiny.CLASSES - 1)
    with pytest.raises(ValueError, match="the answers to 60 images in"):
        _run(tmp_path, _options())


def test_without_images_to_teach_there_are_no_teachers() -> None:
    assert _options().count_teachers(5) == 2
    assert _options().count_teachers(0) == 0
    assert _options({"enabled": False}).count_teachers(5) == 0
    assert _options(objective={"alpha": 0.0}).count_teachers(5) == 0
