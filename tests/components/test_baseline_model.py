"""Which model a candidate is compared with."""

from typing import Any

from tfx.types import standard_artifacts

from components.baseline_model.strategy import LatestOtherBlessedModelStrategy


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


def resolve(candidate: int, models: list[int], blessings: list[Any]) -> list[int]:
    resolved = LatestOtherBlessedModelStrategy().resolve_artifacts(
        None,
        {
            "candidate": [model(candidate)],
            "model": [model(number) for number in models],
            "model_blessing": blessings,
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
