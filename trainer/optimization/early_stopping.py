"""Decides by the validation split which weights to keep and when to stop; `loop.py` calls it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainer.options import EarlyStoppingConfig

_HIGHER_IS_BETTER = ("accuracy", "elbo")


class Judgement(NamedTuple):
    """What follows from one evaluation.

    Attributes:
        is_best: whether no evaluation so far was better.
        is_over: whether as many evaluations as `patience` brought no improvement.
    """

    is_best: bool
    is_over: bool


class EarlyStopping:
    """Compares the evaluations of one training.

    Args:
        config: `trainer.early_stopping`.
        averaged_every: steps between updates of the moving average that is evaluated; 1 if the
            weights themselves are.

    Attributes:
        state: what a checkpoint keeps, as plain values.
    """

    def __init__(self, config: EarlyStoppingConfig, averaged_every: int = 1) -> None:
        self._config = config
        self._every = averaged_every
        self.state: dict[str, Any] = {"value": None, "bad": 0}

    def judge(self, measures: Mapping[str, float], step: int) -> Judgement:
        """Compares an evaluation with those before.

        Of equally good ones the last counts as the best: on few validation images many are equal,
        and the first of them was trained least.

        Args:
            measures: what `Evaluator` returned for the validation split.
            step: number of completed steps.

        Raises:
            ValueError: the metric is not measured.
        """
        config, state = self._config, self.state
        if not config.patience and config.keep == "last":
            return Judgement(is_best=False, is_over=False)
        if config.metric not in measures:
            raise ValueError(
                f"trainer.early_stopping.metric: {config.metric} is not measured on the "
                f"validation split; choose one of {', '.join(sorted(measures))}"
            )
        updates = step // self._every
        if updates == state.get("updates"):
            # The same weights again: no evidence that training does not improve them.
            return Judgement(is_best=False, is_over=False)
        value = measures[config.metric] * (1.0 if config.metric in _HIGHER_IS_BETTER else -1.0)
        improved = state["value"] is None or value > state["value"] + config.min_delta
        best = state.get("best", state["value"])
        is_best = best is None or value >= best
        self.state = {
            "value": value if improved else state["value"],
            "best": value if is_best else best,
            "updates": updates,
            "bad": 0 if improved else state["bad"] + 1,
        }
        return Judgement(is_best, 0 < config.patience <= self.state["bad"])
