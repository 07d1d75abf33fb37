"""Which model a candidate is compared with, and which one a training starts from."""

import json
from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts

from components.baseline_model.strategy import LatestOtherBlessedModelStrategy, WarmStartStrategy
from tests.pipeline.orchestration.stores import CACHED, Store


def model(number: int) -> standard_artifacts.Model:
    made = standard_artifacts.Model()
    made.id = number
    return made


def blessing(of: int, *, blessed: bool) -> standard_artifacts.ModelBlessing:
    made = standard_artifacts.ModelBlessing()
    made.id = 100 + of
    made.set_int_custom_property("current_model_id", of)
    made.set_int_custom_property("blessed", int(blessed))
    return made


def check(number: int, of: int, *, blessed: bool) -> standard_artifacts.InfraBlessing:
    made = standard_artifacts.InfraBlessing()
    made.id = number
    made.set_int_custom_property("checked_model_id", of)
    made.set_int_custom_property("blessed", int(blessed))
    return made


def resolve(
    candidate: int, models: list[int], blessings: list[Any], checks: tuple[Any, ...] = ()
) -> list[int]:
    resolved = LatestOtherBlessedModelStrategy().resolve_artifacts(
        None,
        {
            "candidate": [model(candidate)],
            "model": [model(number) for number in models],
            "model_blessing": blessings,
            "infra_blessing": list(checks),
        },
    )
    assert len(resolved["model"]) == len(resolved["model_blessing"])
    return [found.id for found in resolved["model"]]


def test_a_first_model_has_no_baseline() -> None:
    assert resolve(1, [1], []) == []


def test_the_latest_blessed_model_is_the_baseline() -> None:
    blessings = [blessing(n, blessed=True) for n in (1, 2)]
    assert resolve(3, [1, 2, 3], blessings) == [2]


def test_a_refused_model_is_passed_over() -> None:
    blessings = [blessing(1, blessed=True), blessing(2, blessed=False)]
    assert resolve(3, [1, 2, 3], blessings) == [1]


def test_a_model_is_never_compared_with_itself() -> None:
    blessings = [blessing(1, blessed=True), blessing(2, blessed=True)]
    assert resolve(2, [1, 2], blessings) == [1]
    assert resolve(1, [1], [blessing(1, blessed=True)]) == []


def test_a_model_that_cannot_be_served_is_no_baseline() -> None:
    blessings = [blessing(n, blessed=True) for n in (1, 2)]
    refused = check(200, 2, blessed=False)
    assert resolve(3, [1, 2, 3], blessings, (refused,)) == [1]
    # Checked again with other options: the last word counts.
    assert resolve(3, [1, 2, 3], blessings, (check(201, 2, blessed=True), refused)) == [2]


class Trainings:
    """A store with trainings, and the resolver that the next one asks."""

    def __init__(self, folder: Path) -> None:
        self.made = Store(folder)
        self.models: list[int] = []
        self.blessings: list[Any] = []
        self.checks: list[Any] = []

    def images(self, fingerprint: str) -> int:
        return self.made.artifact("Examples", input_fingerprint=fingerprint)

    def base(self, examples: int, settings: Any = 1) -> list[int]:
        given = standard_artifacts.Examples()
        given.id = examples
        strategy = WarmStartStrategy(settings=json.dumps({"training": settings}))
        resolved = strategy.resolve_artifacts(
            self.made.store,
            {
                "examples": [given],
                "model": [model(number) for number in self.models],
                "model_blessing": self.blessings,
                "infra_blessing": self.checks,
            },
        )
        assert resolved is not None
        assert not resolved["model_blessing"]
        return [found.id for found in resolved["model"]]

    def run(self, examples: int, *, settings: Any = 1, blessed: bool = True) -> int:
        """Trains as the pipeline does; a training that was done comes from the cache."""
        base = self.base(examples, settings)
        reads = {"examples": examples, **({"base_model": base[0]} if base else {})}
        custom_config = json.dumps({"training": settings})
        key = json.dumps([reads, settings])
        known = self.made.artifacts.get(key)
        number = known or self.made.artifact("Model")
        self.made.step(
            f"run {len(self.models)}", "Trainer", reads=reads, writes={"model": number},
            custom_config=custom_config, **({"state": CACHED} if known else {}),
        )  # fmt: skip
        # A resolver hands on what others made.
        self.made.step(f"run {len(self.models)}", "baseline_model", writes={"model": number})
        if not known:
            self.made.artifacts[key] = number
            self.models.append(number)
            self.blessings.append(blessing(number, blessed=blessed))
        return number


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(tmp_path)


def test_a_training_starts_from_the_latest_blessed_model_of_other_images(
    trainings: Trainings,
) -> None:
    monday, tuesday, wednesday = (trainings.images(day) for day in ("mon", "tue", "wed"))
    assert trainings.base(monday) == []
    first = trainings.run(monday)
    assert trainings.base(tuesday) == [first]
    trainings.run(tuesday, blessed=False)
    assert trainings.base(wednesday) == [first]
    third = trainings.run(wednesday)
    # Read again, with other code: another artifact, the same images.
    assert trainings.base(trainings.images("wed"), settings=2) == [first]
    assert trainings.base(wednesday, settings=2) == [first]
    trainings.checks.append(check(900, third, blessed=False))
    assert trainings.base(trainings.images("thu")) == [first]


def test_a_repeated_training_comes_from_the_cache_whatever_came_between(
    trainings: Trainings,
) -> None:
    days = [trainings.images(day) for day in ("mon", "tue", "wed")]
    made = [trainings.run(day) for day in days]
    assert len(set(made)) == 3
    for _ in range(2):
        assert [trainings.run(day) for day in days] == made
        assert [trainings.run(day) for day in reversed(days)] == made[::-1]
    # Other options start where these did, and not from a model of the same images.
    other = trainings.run(days[2], settings=2)
    assert trainings.run(days[2], settings=2) == other
    assert trainings.base(days[2], settings=2) == [made[1]]
