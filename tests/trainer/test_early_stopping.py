"""What early stopping concludes from a sequence of evaluations."""

import json

import pytest

from trainer.optimization.early_stopping import EarlyStopping
from trainer.options import EarlyStoppingConfig


def judged(
    values: list[float], *, every: int = 1, steps: int = 1, **options: object
) -> tuple[int, int]:
    """The evaluation whose weights are kept, and the one after which training stops, from 0."""
    config = EarlyStoppingConfig.model_validate({"metric": "accuracy", "keep": "best", **options})
    stopping, kept = EarlyStopping(config, every), -1
    for place, value in enumerate(values):
        found = stopping.judge({"accuracy": value, "loss": value}, (place + 1) * steps)
        kept = place if found.is_best else kept
        if found.is_over:
            return kept, place
    return kept, len(values)


def test_of_equally_good_weights_the_last_are_kept() -> None:
    assert judged([0.5, 0.9, 0.9, 0.8, 0.9, 0.8]) == (4, 6)
    assert judged([0.5, 0.3, 0.3], metric="loss") == (2, 3)


def test_equally_good_weights_are_no_improvement() -> None:
    assert judged([0.5, 0.9, 0.9, 0.9, 0.95], patience=2) == (3, 3)


def test_a_change_below_the_least_one_is_kept_but_does_not_prolong() -> None:
    assert judged([0.5, 0.52, 0.51, 0.9], patience=2, min_delta=0.1) == (1, 2)
    assert judged([0.5, 0.52, 0.7, 0.71, 0.69], patience=2, min_delta=0.1) == (3, 4)


def test_an_average_that_did_not_change_is_no_evidence() -> None:
    # Every third evaluation has new weights; three bad ones in a row are the same weights.
    values = [0.1, 0.1, 0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.4, 0.4]
    assert judged(values, patience=2, every=3, steps=1) == (8, 10)
    assert judged(values, patience=2, every=1, steps=1) == (4, 4)


def test_without_patience_and_best_weights_nothing_is_judged() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig())
    assert stopping.judge({}, 1) == (False, False)


def test_a_metric_that_is_not_measured_is_named() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=1, metric="elbo"))
    with pytest.raises(ValueError, match=r"elbo is not measured .* choose one of accuracy, loss"):
        stopping.judge({"loss": 1.0, "accuracy": 0.5}, 1)


def test_the_state_of_a_checkpoint_goes_on() -> None:
    config = EarlyStoppingConfig(patience=2, metric="accuracy", keep="best")
    first = EarlyStopping(config)
    for step, value in enumerate([0.5, 0.9, 0.8]):
        first.judge({"accuracy": value}, step)
    second = EarlyStopping(config)
    second.state = json.loads(json.dumps(first.state))
    assert second.judge({"accuracy": 0.9}, 3) == (True, True)
    # What releases before this one stored.
    second.state = {"value": 0.9, "step": 10, "bad": 0}
    assert second.judge({"accuracy": 0.8}, 20) == (False, False)
