"""Defines the tuner's part of the configuration: which options are searched, and how.

`trainer/config.py` embeds it; `trainer/search/tuning.py` converts it to KerasTuner's search space.
This module is cheap to import.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_Model = TypeVar("_Model", bound=BaseModel)
_Trainer = TypeVar("_Trainer", bound=BaseModel)


class Choice(BaseModel):
    """The values of one option: a list to choose from, or a range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[float | int | str | bool, ...] = Field(
        default=(), description="choose one of these"
    )
    low: float | None = Field(default=None, description="range: least value")
    high: float | None = Field(default=None, description="range: greatest value")
    log: bool = Field(default=False, description="range: sample the logarithm evenly")
    integer: bool = Field(default=False, description="range: whole numbers only")

    @model_validator(mode="after")
    def _consistent(self) -> "Choice":
        ranged = self.low is not None and self.high is not None
        if bool(self.values) == ranged:
            raise ValueError("a tuner choice has either `values`, or `low` and `high`")
        if len({type(value) for value in self.values}) > 1:
            raise ValueError(
                f"the values of a tuner choice are of one type, not {list(self.values)}; write 1.0 "
                "for 1 among fractions"
            )
        if ranged and self.low >= self.high:  # type: ignore[operator]  # both are set: ranged
            raise ValueError(f"a tuner range must rise: low {self.low}, high {self.high}")
        if ranged and self.log and self.low <= 0:  # type: ignore[operator]
            raise ValueError(f"a logarithmic tuner range starts above 0, not at {self.low}")
        return self

    @property
    def ends(self) -> tuple[Any, Any]:
        """Returns the first and the last value."""
        if self.values:
            return self.values[0], self.values[-1]
        if self.integer:
            return int(self.low or 0), int(self.high or 0)
        return self.low, self.high


_DEFAULT_SPACE = {
    "trainer.optimizer.learning_rate": Choice(low=3e-4, high=3e-3, log=True),
    "model.latent_size": Choice(values=(8, 16, 32)),
    "trainer.objective.generative_weight": Choice(values=(0.5, 1.0)),
}


class TunerConfig(BaseModel):
    """An optional search before the training; off, it costs nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        default=False, description="search before training: a step of the pipeline"
    )
    algorithm: Literal["random", "bayesian", "hyperband"] = Field(
        default="random",
        description="KerasTuner's oracle. hyperband gives most settings few epochs and the best "
        "of them more, up to `epochs`",
    )
    trials: int = Field(default=8, ge=1, description="settings tried; hyperband: at most")
    epochs: float = Field(
        default=3.0,
        gt=0,
        description="epochs of one trial; warm-ups are shortened in proportion",
    )
    metric: Literal["accuracy", "cross_entropy", "loss", "elbo"] = Field(
        default="cross_entropy", description="of the validation split"
    )
    space: dict[str, Choice] = Field(
        default_factory=lambda: dict(_DEFAULT_SPACE),
        description="dotted option names under `model.` and `trainer.`, and their values",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TunerConfig":
        for key in self.space:
            if not key.startswith(("model.", "trainer.")) or key.startswith("trainer.tuner."):
                raise ValueError(
                    f"trainer.tuner.space: `{key}` must start with `model.` or `trainer.` and not "
                    "be of the tuner itself"
                )
        return self


def apply(values: Mapping[str, Any], model: _Model, trainer: _Trainer) -> tuple[_Model, _Trainer]:
    """Applies the proposed options to the configurations and validates the result.

    Args:
        values: values by dotted option name, as in `trainer.tuner.space`. Names that the search
            algorithm adds for itself (`tuner/...`) are ignored.
        model: options of the network.
        trainer: options of the training.

    Raises:
        ValueError: a name is not an option, or a value is out of range.
    """
    trees: dict[str, Any] = {
        "model": model.model_dump(mode="json"),
        "trainer": trainer.model_dump(mode="json"),
    }
    for key, value in values.items():
        if key.startswith("tuner/"):
            continue
        *path, leaf = key.split(".")
        place: Any = trees
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or leaf not in place:
            raise ValueError(f"trainer.tuner.space: `{key}` is no option")
        place[leaf] = value
    try:
        return (
            type(model).model_validate(trees["model"]),
            type(trainer).model_validate(trees["trainer"]),
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"trainer.tuner.space: {f'{place}: ' if place else ''}{reason}") from error


def check_space(config: TunerConfig, model: BaseModel, trainer: BaseModel) -> None:
    """Rejects a space whose first or last values are invalid, before anything runs.

    Invalid combinations in between are found when they are tried; their trials fail.

    Raises:
        ValueError: a value is invalid; the message is one line that names the key.
    """
    for end in (0, 1):
        apply({key: choice.ends[end] for key, choice in config.space.items()}, model, trainer)
