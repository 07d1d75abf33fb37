"""Defines the model card, the JSON file next to every trained model, as one typed schema.

`serving/export.py` and `python -m trainer` write it; all readers parse it here. Callers read and
write the bytes themselves, because a card may be in a folder, in Cloud Storage or in a TFX
artifact. Importing this module is cheap, because it imports neither TensorFlow nor TFX.
"""

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.config import ImageConfig

CARD_FILE: Final = "model.json"
"""Name of the file; `python -m trainer` writes it next to `model.keras`."""

EXPORTED_CARD: Final = "assets.extra/model.json"
"""Path of the file within an exported SavedModel."""


class CardError(ValueError):
    """Reports an unreadable model card. The message names the key; the caller names the file."""


class CardPart(BaseModel):
    """A frozen part of the card. Unknown keys of later releases are kept when it is copied."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)


class Digests(CardPart):
    """Hexadecimal digests; empty if an earlier release did not record one."""

    model: str = Field(default="", description="of all weights, in the model's order")
    transform: str = Field(default="", description="of the files of the Transform graph")
    calibration: str = Field(default="", description="of the weights of the quality scores")
    code: str = Field(default="", description="of the project's code and library versions")
    config: str = Field(default="", description="of the options that the model depends on")

    def as_dict(self) -> dict[str, str]:
        """Returns the recorded digests by name."""
        return self.model_dump(exclude_unset=True)


class TemperatureFit(CardPart):
    """The temperature of the class probabilities and its effect on the images that gave it.

    On few images the effect is overstated, and the calibration errors are mostly chance; the gate's
    verdict and the report have those of test images, beside what chance gives.
    """

    value: float = Field(default=1.0, description="temperature that the model divides logits by")
    gain: float | None = Field(
        default=None, description="mean fall of -log p(y|x), nats; null if there was nothing to fit"
    )
    standard_error: float | None = Field(default=None, description="of `gain`, nats")
    calibration_error_before: float | None = Field(
        default=None, description="expected calibration error at temperature 1, in [0, 1]"
    )
    calibration_error: float | None = Field(
        default=None, description="expected calibration error at `value`, in [0, 1]"
    )


class ScoreChoice(CardPart):
    """The choice of the outlier score, measured on synthetic outliers."""

    chosen: str = Field(default="", description="name of the score that the model returns")
    mean_auroc: dict[str, float] = Field(default={}, description="by score, over all kinds")
    auroc: dict[str, dict[str, float]] = Field(default={}, description="by score and kind")


class VerdictThreshold(CardPart):
    """One threshold of the outlier score."""

    score: float | None = Field(
        default=None, description="an image above it gets the verdict; none: too few images"
    )
    rate: float | None = Field(
        default=None, description="share of ordinary images that may exceed it"
    )
    interval: tuple[float, float] | None = Field(
        default=None, description="central 95 % interval of the share that does"
    )


class VerdictThresholds(CardPart):
    """The thresholds of both verdicts."""

    review: VerdictThreshold = VerdictThreshold()
    reject: VerdictThreshold = VerdictThreshold()

    def scores(self) -> dict[str, float]:
        """Returns the fitted thresholds by verdict, the lower one first."""
        found = {"review": self.review.score, "reject": self.reject.score}
        return {name: score for name, score in found.items() if score is not None}


class CalibrationReport(CardPart):
    """The result of `quality/calibration.py`; empty if there was no split to calibrate on."""

    split: str = Field(default="", description="split that the scores were fitted on")
    images: int = Field(default=0, description="images in that split")
    temperature: TemperatureFit = TemperatureFit()
    outlier_score: ScoreChoice = ScoreChoice()
    thresholds: VerdictThresholds = VerdictThresholds()


class TrainingArithmetic(CardPart):
    """How the training computed the loss and its gradients."""

    body_dtype: str = Field(default="float32", description="Keras dtype policy of the bodies")
    xla: bool = Field(default=False, description="whether XLA compiled them")
    normalisation: str = Field(
        default="", description="batch normalisation by the fused `kernel` or by the `formula`"
    )


class ImportanceBound(CardPart):
    """The importance-weighted bound on log p(x), measured after training."""

    split: str = Field(default="", description="split that it was measured on")
    images: int = Field(default=0, description="images measured; 0: it was not measured")
    samples: int = Field(default=0, description="samples k of z per image")
    bound: float | None = Field(default=None, description="mean, nats per image")
    standard_error: float | None = Field(default=None, description="of `bound`, nats")
    bits_per_dimension: float | None = Field(default=None, description="-bound / (D ln 2)")
    elbo: float | None = Field(default=None, description="from the same samples, nats per image")


class PixelSummary(CardPart):
    """Pixel values of the training data; quantiles at `TrainingSummaries.levels`."""

    histogram: list[float] = Field(default=[], description="shares in 32 bins of 8 levels")
    brightness: list[float] = Field(
        default=[], description="quantiles of the mean over an image, in [0, 1]"
    )
    contrast: list[float] = Field(
        default=[], description="quantiles of the standard deviation over an image"
    )


class LatentSummary(CardPart):
    """The posterior mean mu of the training data, by latent dimension."""

    mean: list[float] = Field(default=[], description="[d]")
    std: list[float] = Field(default=[], description="standard deviation, [d]")
    quantiles: list[list[float]] = Field(default=[], description="[d, levels]")
    posterior_variance: list[float] = Field(default=[], description="mean of sigma squared, [d]")


class FileMix(CardPart):
    """The image files of the ingest that produced the training data."""

    images: int = Field(default=0, description="usable images")
    format: dict[str, int] = Field(default={}, description="images by format")
    size: dict[str, int] = Field(default={}, description="images by `WIDTHxHEIGHT`, pixels")


class TrainingSummaries(CardPart):
    """Statistics of images from the training distribution, for the drift report.

    The list of a score holds its quantiles at `levels`; it is empty if the card has none.
    """

    images: int = Field(default=0, description="images summarised; 0: there are no summaries")
    levels: list[float] = Field(default=[], description="levels of all quantiles, in (0, 1)")
    pixels: PixelSummary = PixelSummary()
    latent: LatentSummary = LatentSummary()
    classes: list[float] = Field(default=[], description="share of each predicted class")
    priors: list[float] | None = Field(
        default=None, description="share of each class among the train labels"
    )
    confidence: list[float] = Field(default=[], description="of the largest probability")
    elbo: list[float] = Field(default=[], description="nats per image")
    kl: list[float] = Field(default=[], description="nats per image")
    reconstruction_error: list[float] = Field(
        default=[], description="mean square over pixel values in [0, 1]"
    )
    outlier_score: list[float] = Field(default=[], description="of the outlier score")
    mix: FileMix = FileMix()


class FindingBounds(CardPart):
    """The bounds of one finding about images, learned from the training images at ingest."""

    below: float | None = Field(default=None, description="smaller measures are found")
    above: float | None = Field(default=None, description="larger measures are found")


class StartedFrom(CardPart):
    """The earlier model that a warm start took weights from."""

    source: str = Field(default="", description="folder of the earlier model")
    model: str = Field(default="", description="digest of its weights")
    new: list[str] = Field(default=[], description="names of the weights that were initialised")
    line: str = Field(default="", description="both in one line, for people")


class PretrainedOn(CardPart):
    """What the encoder learned before the classes: by how many right angles images are turned."""

    images: int = Field(default=0, description="images, with and without a label")
    epochs: float = Field(default=0.0, description="passes over them")
    told_right: float | None = Field(
        default=None, description="share of their turns told right at the end"
    )
    line: str = Field(default="", description="all in one line, for people")


class TaughtBy(CardPart):
    """Whose answers to the images without labels the model learned beside the labels."""

    teachers: int = Field(default=0, description="trainings with the labels alone")
    images: int = Field(default=0, description="images without a label")
    agreement: float | None = Field(
        default=None, description="share of these to which all of them give the same class"
    )
    line: str = Field(default="", description="all in one line, for people")


class ModelCard(CardPart):
    """The facts about a trained model.

    Every key has a default, because exports of earlier releases lack some keys, and
    `python -m trainer` writes no facts about an export. `require` distinguishes a missing key from
    a default.
    """

    path: str = Field(
        default="", exclude=True, description="the model's folder; not part of the file"
    )
    name: str = Field(default="", description="name of the pipeline")
    classes: tuple[str, ...] = Field(
        default=(), description="names of the classes, in the order of `label_index`"
    )
    image_shape: tuple[int, int, int] = Field(
        default=(0, 0, 0), description="height, width and channels of the model's images"
    )
    image_fit: Literal["stretch", "crop", "pad"] = Field(
        default="stretch", description="what is done with images of another shape"
    )
    embedding_size: int = Field(default=0, description="length of an embedding")
    body_dtype: str = Field(
        default="float32", description="Keras dtype policy of the encoder and the decoder"
    )
    weights: tuple[str, ...] = Field(
        default=(), description="names of the weights, in the order of the SavedModel's variables"
    )
    digests: Digests = Digests()
    images: dict[str, int] = Field(default={}, description="images by split")
    calibration: CalibrationReport = CalibrationReport()
    summaries: TrainingSummaries = TrainingSummaries()
    importance_bound: ImportanceBound = ImportanceBound()
    arithmetic: TrainingArithmetic = TrainingArithmetic()
    findings: dict[str, FindingBounds] = Field(
        default={}, description="bounds by finding; none: the ingest looked for none"
    )
    steps: int | None = Field(default=None, description="training steps done")
    libraries: dict[str, str] = Field(default={}, description="versions by library")
    base: StartedFrom | None = Field(default=None, description="none: all weights were initialised")
    pretraining: PretrainedOn | None = Field(
        default=None, description="none: training began with the classes"
    )
    taught: TaughtBy | None = Field(default=None, description="none: it had no teachers")
    image: dict[str, int | str] | None = Field(
        default=None,
        description="height and width (pixels), channels and fit; from `python -m trainer` alone",
    )
    validation: dict[str, float] | None = Field(
        default=None, description="last measures on validation; from `python -m trainer` alone"
    )

    @property
    def image_config(self) -> ImageConfig:
        """Size, channels and fit of the model's images."""
        height, width, channels = self.image_shape
        return ImageConfig.model_validate(
            {"height": height, "width": width, "channels": channels, "fit": self.image_fit}
        )

    @property
    def answer_digests(self) -> dict[str, str]:
        """Digests of everything that the model's outputs depend on; empty where unrecorded."""
        found = self.digests
        return {
            "model": found.model,
            "transform": found.transform,
            "calibration": found.calibration,
            "code": found.code,
        }

    def require(self, *keys: str) -> "ModelCard":
        """Checks that the file has the given keys.

        Args:
            keys: Keys of the card, with a dot for those of a part: `digests.model`.

        Returns:
            The card itself.

        Raises:
            CardError: A key is missing; the message names it.
        """
        for key in keys:
            part: Any = self
            for name in key.split("."):
                if name not in part.model_fields_set:
                    raise CardError(f"'{name}' is missing")
                part = getattr(part, name)
        return self


def parse_card(content: str | bytes, *, path: str = "") -> ModelCard:
    """Reads a model card.

    Args:
        content: The file's content.
        path: The folder of the model, for `ModelCard.path`.

    Returns:
        The card, with defaults for missing keys.

    Raises:
        CardError: The content is not JSON, or a key has a wrong type; the message is one line.
    """
    try:
        facts = json.loads(content)
        if not isinstance(facts, dict):
            raise CardError(f"expected a JSON object, got {type(facts).__name__}")
        return ModelCard.model_validate({**facts, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CardError(f"{key}: {first['msg']}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CardError(str(error)) from error


def format_card(card: ModelCard) -> str:
    """Formats the keys that were set, sorted, as indented JSON."""
    facts = card.model_dump(exclude_unset=True)
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"
