"""Defines the sections of the trainer's options, which `config.py` puts together.

Importing this module is cheap, because it does not import TensorFlow.
"""

import re
from typing import Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.config_faults import HIDDEN_VALUE

_WORDS: Final = {True: "on", "yes": "on", False: "off", "no": "off"}
"""Other ways to write the words of options; plain YAML parsers read `off` as False."""


class Section(BaseModel):
    """A frozen section of the configuration; unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _restore_words(cls, values: Any) -> Any:
        """Gives options that want `on` or `off` the word for a boolean, `yes` or `no`."""
        if not isinstance(values, dict):
            return values
        restored = dict(values)
        for name, value in values.items():
            if isinstance(value, bool | str) and value in _WORDS and name in cls.model_fields:
                allowed = get_args(cls.model_fields[name].annotation)
                if value not in allowed and _WORDS[value] in allowed:
                    restored[name] = _WORDS[value]
        return restored


def of_form(pattern: str, expected: str, *, hidden: bool = False) -> AfterValidator:
    """Creates a validator of texts that match a pattern as a whole.

    Args:
        pattern: A regular expression.
        expected: What the error says is expected.
        hidden: Whether no message may show the text, which may be a secret by mistake.
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            if hidden:
                raise PydanticCustomError(HIDDEN_VALUE, "expected {what}", {"what": expected})
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _check_ramp(key: str, shares: tuple[float, float]) -> None:
    start, end = shares
    if not 0 <= start <= end <= 1:
        raise ValueError(f"{key}: [{start}, {end}] must rise within 0 to 1")


_NO_PART_OF_IMPORTANCE: Final = {
    "free_bits": 0.0,
    "entropy_weight": 0.0,
    "beta": 1.0,
    "beta_warmup_epochs": 0.0,
}
"""Options that the importance-weighted bound does not have, and the values that switch them off."""


class ObjectiveConfig(Section):
    """The loss: -J / D + alpha * cross-entropy, J in nats per image, D values per image."""

    beta: float = Field(default=1.0, ge=0, description="weight of the KL term")
    beta_warmup_epochs: float = Field(
        default=0.0, ge=0, description="beta rises linearly from 0 over this"
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="nats per latent dimension that cost nothing"
    )
    entropy_weight: float = Field(
        default=0.0, ge=0, description="weight of the posterior's entropy"
    )
    generative_weight: float = Field(
        default=1.0, ge=0, description="weight of -J / D; 0: classifier only"
    )
    alpha: float = Field(
        default=1.0, ge=0, description="weight of the cross-entropy; 0: unsupervised"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="of the cross-entropy's target"
    )
    samples: int = Field(default=1, ge=1, le=256, description="samples of z per image")
    bound: Literal["elbo", "importance"] = Field(
        default="elbo",
        description="importance: train on the importance-weighted bound over `samples`",
    )
    binarise: bool = Field(
        default=False,
        description="bernoulli: the ELBO sees black or white pixels, redrawn at each step",
    )
    elbo_every: int = Field(
        default=1,
        ge=1,
        description="J is computed of every n-th labelled image of a batch, at a fraction of the "
        "cost; the classifier learns from all of them",
    )
    clean_share: float = Field(
        default=0.25, ge=0, le=1, description="share of the cross-entropy that clean images have"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveConfig":
        if self.alpha == 0 and self.generative_weight == 0:
            raise ValueError(
                "trainer.objective.alpha and generative_weight are both 0: nothing is learned"
            )
        if self.bound == "importance":
            for key, off in _NO_PART_OF_IMPORTANCE.items():
                if getattr(self, key) != off:
                    raise ValueError(
                        f"trainer.objective.{key}: has no meaning with bound = importance; "
                        f"set it to {off:g}"
                    )
        return self


class AugmentationConfig(Section):
    """Random changes of the images that the classifier sees; each bound is symmetric around 0."""

    rotation: float = Field(default=0.0, ge=0, le=180, description="degrees")
    shift: float = Field(default=0.0, ge=0, le=0.5, description="share of the height and width")
    zoom: float = Field(default=0.0, ge=0, le=1, description="log scale")
    shear: float = Field(default=0.0, ge=0, le=1, description="tangent of the angle")
    elastic: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="smooth displacement, share of the height and width; suits handwriting",
    )
    elastic_ramp: tuple[float, float] = Field(
        default=(0.0, 0.0),
        description="shares of the training between which elastic rises to full",
    )
    thickness: float = Field(
        default=0.0, ge=0, le=1, description="share of images thickened or thinned"
    )
    contrast: float = Field(default=0.0, ge=0, lt=1, description="relative change of contrast")
    brightness: float = Field(
        default=0.0, ge=0, lt=1, description="change of brightness, of the range"
    )
    cutout: float = Field(default=0.0, ge=0, le=0.75, description="side of a blanked square, share")
    horizontal_flip: bool = Field(default=False, description="only where the classes survive it")
    fill: Literal["black", "edge", "reflect"] = Field(
        default="black", description="what a shifted or rotated image shows beyond its border"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "AugmentationConfig":
        _check_ramp("trainer.augmentation.elastic_ramp", self.elastic_ramp)
        return self

    @property
    def warps(self) -> bool:
        """Whether any configured change moves pixels."""
        moved = self.rotation or self.shift or self.zoom or self.shear or self.elastic
        return bool(moved or self.horizontal_flip)

    @property
    def enabled(self) -> bool:
        """Whether any change is configured."""
        return self.warps or bool(self.thickness or self.contrast or self.brightness or self.cutout)

    def scaled(self, factor: float) -> "AugmentationConfig":
        """Returns the same changes, `factor` times as strong; the flip is unchanged."""
        bounds = {"rotation": 180.0, "shift": 0.5, "zoom": 1.0, "shear": 1.0, "elastic": 0.5,
                  "thickness": 1.0, "contrast": 0.9, "brightness": 0.9, "cutout": 0.75}  # fmt: skip
        changed = {key: min(bound, getattr(self, key) * factor) for key, bound in bounds.items()}
        return self.model_copy(update=changed)


class SemiSupervisedConfig(Section):
    """Learning from the unlabelled split. Without one, nothing here costs anything."""

    enabled: bool = Field(default=True, description="use the unlabelled split if there is one")
    batch_size: int = Field(
        default=0, ge=0, description="unlabelled images per step; 0: as labelled"
    )
    include_train: bool = Field(
        default=True, description="labelled images also go through the unlabelled stream"
    )
    elbo_weight: float = Field(default=1.0, ge=0, description="weight of the unlabelled ELBO")
    elbo_every: int = Field(
        default=1, ge=1, description="every n-th unlabelled image adds its ELBO; 1: all"
    )
    consistency: float = Field(
        default=0.0, ge=0, description="weight of the cross-entropy between two views of one image"
    )
    confidence: float = Field(
        default=0.95, ge=0, lt=1, description="least probability of a pseudo-label"
    )
    ramp: tuple[float, float] = Field(
        default=(0.2, 0.4),
        description="shares of the training between which consistency rises to full",
    )
    mutual_information: float = Field(
        default=0.0, ge=0, description="weight of the mutual information between two views' classes"
    )
    weak_strength: float = Field(
        default=0.4, ge=0, le=1, description="weak view: share of trainer.augmentation"
    )
    starts: int = Field(
        default=1,
        ge=1,
        le=16,
        description="random starts; the one goes on whose classes differ least between unlabelled "
        "images that look alike",
    )
    starts_share: float = Field(
        default=0.5, gt=0, le=1, description="share of the training that each start takes part in"
    )
    teachers: int = Field(
        default=0,
        ge=0,
        le=16,
        description="trainings with the labels alone, whose mean answers to the unlabelled images "
        "the model then learns as well; 0: none",
    )
    teaching: float = Field(
        default=1.0, gt=0, description="weight of the cross-entropy with the teachers' answers"
    )
    teaching_temperature: float = Field(
        default=0.7,
        gt=0,
        description="their mean probabilities to the power of 1 over this, normalised; below 1 "
        "sharpens them",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SemiSupervisedConfig":
        _check_ramp("trainer.semi_supervised.ramp", self.ramp)
        if self.teachers and self.starts > 1:
            raise ValueError(
                "trainer.semi_supervised.teachers: takes the place of several starts; set "
                "trainer.semi_supervised.starts to 1, or teachers to 0"
            )
        return self


class PretrainingConfig(Section):
    """Learning from the images of train and unlabelled, whatever their labels, before the training.

    The encoder learns to tell by how many right angles an image was turned.
    """

    epochs: float = Field(
        default=0.0,
        ge=0,
        description="passes over the images; 0: off; for few labels and many photographs that have "
        "an upper side",
    )
    batch_size: int = Field(
        default=0,
        ge=0,
        description="images per step; 0: trainer.batch_size, or its first multiple from 128 on",
    )


class OptimizerConfig(Section):
    """Adam or AdamW (with `weight_decay`), its schedule, clipping and averaging."""

    learning_rate: float = Field(default=1e-3, gt=0, description="peak")
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear rise from 0 over this")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="after the warm-up"
    )
    final_share: float = Field(
        default=0.0, ge=0, le=1, description="cosine: last rate over the peak"
    )
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="Adam")
    beta_2: float = Field(default=0.999, ge=0, lt=1, description="Adam")
    epsilon: float = Field(default=1e-7, gt=0, description="Adam")
    weight_decay: float = Field(
        default=0.0, ge=0, description="decoupled, on kernels; > 0 is AdamW"
    )
    clip_norm: float = Field(default=0.0, ge=0, description="global norm of the gradient; 0: off")
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="moving average of weights; 0: off"
    )
    ema_every: int = Field(
        default=8, ge=1, description="steps between updates of the moving average"
    )


class EarlyStoppingConfig(Section):
    """Whether training stops when the validation split stops improving, and what it keeps."""

    patience: int = Field(
        default=0, ge=0, description="evaluations without improvement; 0: never stop"
    )
    metric: Literal["accuracy", "cross_entropy", "loss", "elbo"] = Field(
        default="loss", description="of the validation split"
    )
    min_delta: float = Field(default=0.0, ge=0, description="least change that is an improvement")
    keep: Literal["best", "last"] = Field(
        default="last", description="which weights the result has; best: the last of equal ones"
    )


class CheckpointConfig(Section):
    """How often a run can be resumed from."""

    every_secs: float = Field(
        default=60.0, ge=0, description="seconds between checkpoints; 0: each call"
    )
    keep: int = Field(default=2, ge=1, description="checkpoints kept")


DENSITY_SCORES: Final = ("bound", "reconstruction", "relative_error")
"""Outlier scores that need a decoder which is a density of the image; `combined` contains one."""


class CalibrationConfig(Section):
    """What is fitted on the calibration split after training."""

    false_positive_rate: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="share of good images whose verdict is `review` or `reject`",
    )
    reject_rate: float = Field(
        default=0.005, gt=0, lt=1, description="share of good images whose verdict is `reject`"
    )
    outlier_score: Literal["auto", "combined", "bound", "reconstruction", "relative_error",
                           "energy", "neighbours", "mahalanobis",
                           "relative_mahalanobis"] = Field(
        default="auto", description="auto: the best on synthetic outliers of the calibration split"
    )  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self) -> "CalibrationConfig":
        if self.reject_rate > self.false_positive_rate:
            raise ValueError(
                f"trainer.calibration.reject_rate: {self.reject_rate} is more than "
                f"false_positive_rate ({self.false_positive_rate})"
            )
        return self
