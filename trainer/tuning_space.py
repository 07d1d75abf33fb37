"""The tuner's part of the configuration: which options are searched, and how.

`trainer/config.py` embeds it; `trainer/tuning.py` turns it into KerasTuner's search space.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
        if ranged and self.low >= self.high:  # type: ignore[operator]  # both are set: ranged
            raise ValueError(f"a tuner range must rise: low {self.low}, high {self.high}")
        if ranged and self.log and self.low <= 0:  # type: ignore[operator]
            raise ValueError(f"a logarithmic tuner range starts above 0, not at {self.low}")
        return self


_DEFAULT_SPACE = {
    "trainer.optimizer.learning_rate": Choice(low=3e-4, high=3e-3, log=True),
    "model.latent_size": Choice(values=(8, 16, 32)),
    "trainer.objective.generative_weight": Choice(values=(0.5, 1.0)),
}


class TunerConfig(BaseModel):
    """An optional search before the training; off, it costs nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=False, description="search before training")
    algorithm: Literal["random", "bayesian"] = Field(
        default="random", description="KerasTuner's oracle"
    )
    trials: int = Field(default=8, ge=1, description="settings tried")
    epochs: float = Field(default=3.0, gt=0, description="epochs of one trial")
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
            if not key.startswith(("model.", "trainer.")):
                raise ValueError(
                    f"trainer.tuner.space: `{key}` must start with `model.` or `trainer.`"
                )
        return self
