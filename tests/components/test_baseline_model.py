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
    resolved = LatestOtherBlessedModelStrategy(directory="no/folder").resolve_artifacts(
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


class Pushes:
    """A store and a folder of versions: models that were pushed, and rollbacks."""

    def __init__(self, folder: Path) -> None:
        self.made = Store(folder)
        self.directory = folder / "pushed"
        self.models: list[int] = []

    def train(self) -> int:
        self.models.append(self.made.artifact("Model"))
        return self.models[-1]

    def push(self, number: int, of: int) -> None:
        pushed = self.made.artifact("PushedModel", pushed_version=str(number))
        self.made.step(
            f"run {number}", "Pusher", reads={"model": of}, writes={"pushed_model": pushed}
        )
        self.version(number)

    def version(self, number: int, **record: int) -> None:
        folder = self.directory / str(number)
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "saved_model.pb").touch()
        (folder / "assets.extra" / "push.json").write_text(json.dumps(record))

    def baseline(self, candidate: int) -> list[int]:
        strategy = LatestOtherBlessedModelStrategy(directory=str(self.directory))
        resolved = strategy.resolve_artifacts(
            self.made.store,
            {
                "candidate": [model(candidate)],
                "model": [model(number) for number in self.models],
                "model_blessing": [blessing(number, blessed=True) for number in self.models],
                "infra_blessing": [],
            },
        )
        return [found.id for found in resolved["model"]]


def test_after_a_rollback_the_baseline_is_the_model_that_is_served_again(tmp_path: Path) -> None:
    pushes = Pushes(tmp_path)
    first, second, third = (pushes.train() for _ in range(3))
    for number, of in enumerate((first, second, third), start=1):
        pushes.push(number, of)
    assert pushes.baseline(third + 1000) == [third]
    pushes.version(4, copy_of=2, rolled_back_from=3)
    assert pushes.baseline(third + 1000) == [second]
    # A run that was judged before gets its baseline, and with it the cached verdict.
    assert pushes.baseline(third) == [second]
    assert pushes.baseline(second) == [third]
    pushes.version(5, copy_of=1, rolled_back_from=4)
    assert pushes.baseline(third + 1000) == [first], "the third model does not come back"
    pushes.version(6, copy_of=3, rolled_back_from=5)
    assert pushes.baseline(third + 1000) == [third]
    pushes.version(7, copy_of=1, rolled_back_from=6)
    later = pushes.train()
    assert pushes.baseline(later) == [first]
    # Blessed, but its push failed: it was compared with the model that is served.
    assert pushes.baseline(later + 1000) == [later]
    pushes.push(8, later)
    assert pushes.baseline(later + 1000) == [later]


def test_a_rollback_to_a_model_of_another_root_changes_nothing(tmp_path: Path) -> None:
    pushes = Pushes(tmp_path)
    pushes.push(2, pushes.train())
    pushes.version(1)
    pushes.version(3, copy_of=1, rolled_back_from=2)
    assert pushes.baseline(1000) == pushes.models


class Trainings:
    """A store with trainings, and the resolver that the next one asks."""

    def __init__(self, folder: Path) -> None:
        self.made = Store(folder)
        self.directory = folder / "pushed"
        self.models: list[int] = []
        self.blessings: list[Any] = []
        self.checks: list[Any] = []

    def images(self, fingerprint: str) -> int:
        return self.made.artifact("Examples", input_fingerprint=fingerprint)

    def base(self, examples: int, settings: Any = 1) -> list[int]:
        given = standard_artifacts.Examples()
        given.id = examples
        strategy = WarmStartStrategy(
            settings=json.dumps({"training": settings}), directory=str(self.directory)
        )
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


def test_a_training_does_not_start_from_a_model_that_was_rolled_back(tmp_path: Path) -> None:
    trainings, pushes = Trainings(tmp_path), Pushes(tmp_path / "pushes")
    days = [trainings.images(day) for day in ("mon", "tue", "wed")]
    made = [trainings.run(day) for day in days[:2]]
    pushes.made, pushes.directory = trainings.made, trainings.directory
    for number, of in enumerate(made, start=1):
        pushes.push(number, of)
    assert trainings.base(days[2]) == [made[1]]
    pushes.version(3, copy_of=1, rolled_back_from=2)
    assert trainings.base(days[2]) == [made[0]]
    assert trainings.run(days[1]) == made[1], "what was trained before comes from the cache"


def test_a_training_does_not_start_from_a_model_that_knows_images_of_other_splits(
    trainings: Trainings,
) -> None:
    def settings(test: float, epochs: int = 1) -> str:
        tree = {"input": {"splits": {"seed": 0, "test": test}}, "trainer": {"epochs": epochs}}
        return json.dumps(tree)

    days = [trainings.images(day) for day in ("mon", "tue", "wed", "thu")]
    first = trainings.run(days[0], settings=settings(0.1))
    assert trainings.base(days[1], settings=settings(0.1, epochs=2)) == [first]
    # More test images, as a gate that is undecided asks for: the first model has learned some.
    assert trainings.base(days[1], settings=settings(0.2)) == []
    second = trainings.run(days[1], settings=settings(0.2))
    assert trainings.base(days[2], settings=settings(0.2)) == [second]
    assert trainings.base(days[2], settings=settings(0.1)) == [first]
