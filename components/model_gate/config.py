"""Defines the `evaluation:` section: the metrics and the bounds a model must meet to be blessed.

The graph passes it to TFMA's configuration and to the gate. Importing this module is cheap.
"""

from typing import Literal

from pydantic import Field

from trainer.options import Section


class EvaluationConfig(Section):
    """What a model must reach on the test split to be blessed; docs/evaluation.md has the rules."""

    min_accuracy: float = Field(default=0.9, ge=0, le=1, description="least accuracy")
    min_balanced_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="least mean of the classes' recalls"
    )
    max_log_loss: float | None = Field(default=None, gt=0, description="most log loss, nats")
    max_calibration_error: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="most expected calibration error, over 15 bins of equal mass",
    )
    min_class_recall: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="recall that no class may surely lie below (its interval's upper end)",
    )
    min_slice_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="accuracy that no slice may surely lie below (its interval's upper end)",
    )
    labelled_only: Literal["off", "report", "refuse"] = Field(
        default="off",
        description="train a second model on the labelled images only, and say whether the "
        "unlabelled ones helped; refuse: do not bless a model that they surely made worse",
    )
    slices: tuple[Literal["class", "archive", "size"], ...] = Field(
        default=("class", "archive", "size"),
        description="what is measured in parts: the true class, the archive that an image came "
        "from, its longer side in octaves. Each takes about 0.2 ms per test image",
    )
    top_k: int = Field(default=3, ge=1, description="k of the top-k accuracy")
    max_accuracy_drop: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="by how much the accuracy may lie below that of the last blessed model: the "
        "lower end of the change's interval has to be above this",
    )
    max_log_loss_rise: float | None = Field(
        default=None, ge=0, description="the same for the rise of the log loss, nats"
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="of every interval, two-sided"
    )
    when_undecided: Literal["refuse", "bless"] = Field(
        default="refuse",
        description="what to do when the interval holds both a gain and a drop that is too large",
    )
    max_flips: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the labels that may differ from the last blessed model's without "
        "any gain",
    )
    flips_per_gain: float = Field(
        default=2.0,
        ge=0,
        description="labels that may differ beyond that for each one by which accuracy gains",
    )
