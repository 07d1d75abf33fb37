"""Defines the tuner's part of the configuration: which options are searched, and how.

`trainer/config.py` embeds it; `trainer/search/tuning.py` converts it to KerasTuner's search space.
This module is cheap to import.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from trainer.options import Section

_Model = TypeVar("_Model", bound=BaseModel)
_Trainer = TypeVar("_Trainer", bound=BaseModel)


class Choice(Section):
    """The values of one option: a list to choose from, or a range."""

    values: tuple[float | int | str | bool | list[int | float] | dict[str, Any], ...] = Field(
        default=(), description="choose one of these; for a section, options to set together"
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
        of_range = [name for name in ("low", "high", "log", "integer") if getattr(self, name)]
        if self.values and of_range:
            raise ValueError(f"`{of_range[0]}` is of a tuner range, and has no effect on `values`")
        if len({type(value) for value in self.values}) > 1:
            raise ValueError(
                f"the values of a tuner choice are of one type, not {list(self.values)}; write 1.0 "
                "for 1 among fractions"
            )
        if ranged and self.low >= self.high:  # type: ignore[operator]  # both are set: ranged
            raise ValueError(f"a tuner range must rise: low {self.low}, high {self.high}")
        if ranged and self.integer and (self.low % 1 or self.high % 1):  # type: ignore[operator]
            raise ValueError(
                f"a tuner range of whole numbers ends at them: {self.low}, {self.high}"
            )
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

    @property
    def inner(self) -> tuple[Any, ...]:
        """Returns what else is worth a check: the other values, or a fraction within the range."""
        if self.values or self.integer:
            return self.values[1:-1]
        low, high = self.low or 0.0, self.high or 0.0
        # The golden ratio is near no whole number of a few values.
        return (low + 0.618034 * (high - low),)


_MOVED = {"shift": 0.1, "rotation": 10.0, "zoom": 0.15}
_LIT = {"contrast": 0.3, "brightness": 0.15, "cutout": 0.3, "fill": "reflect"}
_AUGMENTATIONS = Choice(
    # Neither is weak: a short trial does not show how much the whole training would overfit.
    values=(_MOVED, {**_MOVED, **_LIT})
)
_FALLING = {"schedule": "cosine", "clip_norm": 5.0}
_DEFAULT_SPACES: Mapping[str, Mapping[str, Choice]] = {
    "mlp": {
        "trainer.optimizer.learning_rate": Choice(low=3e-4, high=3e-3, log=True),
        "model.latent_size": Choice(values=(8, 16, 32)),
        "trainer.objective.generative_weight": Choice(values=(0.5, 1.0)),
    },
    "conv": {
        "trainer.optimizer.learning_rate": Choice(low=5e-4, high=4e-3, log=True),
        "trainer.optimizer.weight_decay": Choice(values=(0.02, 0.2, 0.5)),
        "trainer.optimizer": Choice(
            values=({"schedule": "constant"}, {**_FALLING, "ema_decay": 0.98})
        ),
        "trainer.augmentation": _AUGMENTATIONS,
        "trainer.objective.generative_weight": Choice(values=(0.1, 0.3, 1.0)),
        "trainer.objective.label_smoothing": Choice(values=(0.0, 0.05)),
        "model.dropout": Choice(values=(0.1, 0.3)),
        "model.conv_width": Choice(values=(32, 48)),
    },
    "backbone": {
        "trainer.optimizer.learning_rate": Choice(low=3e-4, high=3e-3, log=True),
        "trainer.optimizer.weight_decay": Choice(values=(0.0, 0.02)),
        "trainer.optimizer": Choice(values=({"schedule": "constant"}, _FALLING)),
        "trainer.augmentation": _AUGMENTATIONS,
        "model.dropout": Choice(values=(0.1, 0.3)),
    },
}


class TunerConfig(Section):
    """An optional search before the training; off, it costs nothing."""

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
        default={},
        description="dotted names of options or sections under `model.` and `trainer.`, and their "
        "values; empty: the default space of the encoder",
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


def searched_options(config: TunerConfig, encoder: str) -> Mapping[str, Choice]:
    """Returns the configured space, or the default one of the encoder."""
    return config.space or _DEFAULT_SPACES[encoder]


def apply(values: Mapping[str, Any], model: _Model, trainer: _Trainer) -> tuple[_Model, _Trainer]:
    """Applies the proposed options to the configurations and validates the result.

    Args:
        values: values by dotted name of an option or a section, as in `trainer.tuner.space`; those
            of a section are options. These, lists and booleans may be JSON. Names that the search
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
    # A section comes before its options, which take precedence.
    for key, value in sorted(values.items()):
        if key.startswith("tuner/"):
            continue
        *path, leaf = key.split(".")
        place: Any = trees
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or leaf not in place:
            raise ValueError(f"trainer.tuner.space: `{key}` is no option")
        is_text = isinstance(place[leaf], list) or value in ("true", "false")
        if is_text and isinstance(value, str):
            value = json.loads(value)
        if isinstance(place[leaf], dict):
            value = {**place[leaf], **_options_of_section(key, value)}
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


def _options_of_section(key: str, value: Any) -> dict[str, Any]:
    options = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    if not isinstance(options, dict):
        raise ValueError(
            f"trainer.tuner.space: `{key}` is a section; its values are options, as in "
            "{values: [{shift: 0.1}, {shift: 0.2}]}"
        )
    return options


def check_space(config: TunerConfig, model: BaseModel, trainer: BaseModel) -> None:
    """Rejects a space with an invalid value before anything runs.

    Invalid combinations of valid values are found when they are tried; their trials fail.

    Raises:
        ValueError: a value is invalid; the message is one line that names the key.
    """
    ends = [{key: choice.ends[end] for key, choice in config.space.items()} for end in (0, 1)]
    for values in ends:
        apply(values, model, trainer)
    for key, choice in config.space.items():
        for value in choice.inner:
            # It may need the first values of other options, or their last ones.
            faults = [
                fault
                for values in ends
                if (fault := _fault({**values, key: value}, model, trainer))
            ]
            if len(faults) == len(ends):
                whole = "" if choice.values else "; set integer: true for whole numbers"
                raise ValueError(f"{faults[0]}{whole}")


def _fault(values: Mapping[str, Any], model: BaseModel, trainer: BaseModel) -> str:
    """Returns what is wrong with a proposal; empty if nothing is."""
    try:
        apply(values, model, trainer)
    except ValueError as error:
        return str(error)
    return ""
