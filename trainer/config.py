"""Defines and validates the options of the model and of its training.

`pipeline/config.py` composes these sections into the whole tree; the rest of this package relies
on their validation. Importing this module is cheap, because it does not import TensorFlow.
"""

from typing import Literal

from pydantic import Field, model_validator

from trainer.backbone_config import BackboneConfig
from trainer.options import (
    DENSITY_SCORES,
    AugmentationConfig,
    CalibrationConfig,
    CheckpointConfig,
    EarlyStoppingConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainingConfig,
    Section,
    SemiSupervisedConfig,
)
from trainer.search.tuning_space import TunerConfig, check_space

_TURNED = 45
"""Degrees from which a rotated image is as near to a turned one."""


class ImageConfig(Section):
    """The image that the network sees; archives of other sizes are resized to it.

    `trainer/data/pixels.py` (TensorFlow) and `components/image_checks/model_pixels.py` compute the
    same pixels from it.
    """

    height: int = Field(default=28, ge=4, le=1024, description="rows, pixels")
    width: int = Field(default=28, ge=4, le=1024, description="columns, pixels")
    channels: Literal[1, 3] = Field(default=1, description="1 grey, 3 colour")
    fit: Literal["stretch", "crop", "pad"] = Field(
        default="stretch",
        description=(
            "for images of another shape. stretch: to height and width; crop: the largest centred"
            " part of the model's shape; pad: the whole image, black beside it"
        ),
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels


class ModelConfig(Section):
    """Which network is built. The defaults are the reference setting `mnist-mlp`."""

    encoder: Literal["mlp", "conv", "backbone"] = Field(
        default="mlp",
        description="dense layers, residual blocks, or a network of keras.applications",
    )
    hidden: tuple[int, ...] = Field(
        default=(512,), min_length=1, description="mlp encoder: layer widths"
    )
    conv_width: int = Field(default=32, ge=4, description="conv: channels at half resolution")
    conv_blocks: int = Field(
        default=1, ge=0, le=8, description="conv: residual blocks per resolution"
    )
    feature_size: int = Field(
        default=128, ge=2, description="conv encoder: width of the features h"
    )
    posterior_hidden: int = Field(
        default=256,
        ge=0,
        description="conv and backbone: dense layer before mean and log-variance; 0: none",
    )
    latent_size: int = Field(default=16, ge=1, le=1024, description="d, size of z")
    log_variance_bounds: tuple[float, float] = Field(
        default=(-8.0, 4.0), description="log-variance of the posterior is clipped to these"
    )
    decoder: Literal["auto", "mlp", "conv"] = Field(
        default="auto",
        description="auto: the encoder's kind, conv for a backbone; mlp is fast on CPUs",
    )
    decoder_hidden: tuple[int, ...] = Field(
        default=(512,), min_length=1, description="mlp decoder: widths"
    )
    decoder_scale: Literal[1, 2, 4, 8] = Field(
        default=1,
        description=(
            "the decoder computes one row and column in so many, interpolation the rest; on photos"
            " 4 saves most of its time and blurs only the reconstructions"
        ),
    )
    conditioning: Literal["latent", "hidden", "label"] = Field(
        default="latent", description="what the decoder sees: z; z and h; z and the class"
    )
    observation: Literal["bernoulli", "gaussian", "discretized_logistic"] = Field(
        default="bernoulli", description="distribution of a pixel given the decoder's output"
    )
    min_scale: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="gaussian: least standard deviation, in units of the range",
    )
    classifier_input: Literal["mean", "features", "both"] = Field(
        default="features", description="what the classifier reads: posterior mean, h, or both"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the classifier")
    elbo_samples: int = Field(
        default=2,
        ge=1,
        le=64,
        description="noise vectors per image for the ELBO of analyse(); 1 or even",
    )
    neighbours: int = Field(
        default=10, ge=1, description="outlier score: which neighbour's distance"
    )
    neighbour_bank: int = Field(
        default=2048, ge=1, description="outlier score: training images kept"
    )
    neighbour_size: int = Field(
        default=64, ge=1, description="outlier score: principal components of h"
    )
    backbone: BackboneConfig = BackboneConfig()

    @property
    def decoder_kind(self) -> str:
        """`mlp` or `conv`."""
        if self.decoder != "auto":
            return self.decoder
        return "mlp" if self.encoder == "mlp" else "conv"

    @property
    def backbone_options(self) -> BackboneConfig | None:
        """The options of the backbone; None with another encoder."""
        return self.backbone if self.encoder == "backbone" else None

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        low, high = self.log_variance_bounds
        if low >= high:
            raise ValueError(
                f"model.log_variance_bounds: [{low}, {high}] is empty; give the lower bound first"
            )
        if any(width < 1 for width in (*self.hidden, *self.decoder_hidden)):
            raise ValueError("model.hidden and model.decoder_hidden: widths must be at least 1")
        if self.elbo_samples > 1 and self.elbo_samples % 2:
            raise ValueError(
                f"model.elbo_samples: {self.elbo_samples} is odd; the noise comes in antithetic "
                "pairs, so give 1 or an even number"
            )
        if self.neighbours > self.neighbour_bank:
            raise ValueError(
                f"model.neighbours: {self.neighbours} is more than model.neighbour_bank "
                f"({self.neighbour_bank})"
            )
        return self


class TrainerConfig(Section):
    """How the model is trained. The defaults are the reference setting `mnist-mlp`."""

    seed: int = Field(
        default=1, ge=0, lt=2**31, description="names every random choice of the training"
    )
    epochs: float = Field(default=10.0, gt=0, description="passes over the train split")
    max_minutes: float = Field(default=0.0, ge=0, description="stop after this time; 0: no limit")
    batch_size: int = Field(default=128, ge=1, description="images per step, over all replicas")
    evaluation_batch_size: int = Field(default=512, ge=1, description="images per evaluation step")
    evaluate_every_epochs: float = Field(
        default=1.0, gt=0, description="between looks at validation"
    )
    steps_per_call: int = Field(
        default=0, ge=0, description="steps per graph call; 0: about a second"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the bodies' arithmetic; auto: bfloat16 for convolutions on processors with "
        "AMX and on GPUs since Ampere, float32 otherwise",
    )
    xla: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="compile loss and gradients with XLA, on one replica; auto: off, which was "
        "faster on every network measured",
    )
    parts: int = Field(
        default=1,
        ge=1,
        le=64,
        description="compute each batch in so many parts on one device, in the order in which that "
        "many replicas compute it: both then give the same weights; 1: as a whole, the fastest",
    )
    devices: Literal["auto", "one", "mirrored", "multi_worker"] = Field(
        default="auto", description="auto: TF_CONFIG, then the number of GPUs, decides"
    )
    memory_limit_mb: int = Field(
        default=128,
        ge=0,
        description="once the decoded images exceed this, splits go to files in the cache "
        "directory; the model is the same, and training a small network about 4 % slower",
    )
    tensorboard: bool = Field(default=True, description="write scalars and images for TensorBoard")
    warm_start: bool = Field(
        default=False,
        description="start from the weights of the last blessed model (on a cluster: the last "
        "pushed one) that learned from other images, as far as they fit",
    )
    importance_samples: int = Field(
        default=50,
        ge=0,
        le=100_000,
        description="k of the importance-weighted bound that is reported after training, of up to "
        "500 validation images, and by the Evaluator; 0: not measured",
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    semi_supervised: SemiSupervisedConfig = SemiSupervisedConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tuner: TunerConfig = TunerConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainerConfig":
        schedule = self.optimizer
        if schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"trainer.optimizer.warmup_epochs: {schedule.warmup_epochs:g} is more than "
                f"trainer.epochs ({self.epochs:g})"
            )
        semi = self.semi_supervised
        for key in ("consistency", "mutual_information"):
            if getattr(semi, key) and not self.augmentation.enabled:
                raise ValueError(
                    f"trainer.semi_supervised.{key}: compares two augmented views, and "
                    "trainer.augmentation changes nothing; set some of it"
                )
        stages = {
            "semi_supervised.starts: several starts": semi.starts > 1,
            "semi_supervised.teachers: teachers and training": semi.teachers > 0,
            "pretraining.epochs: pretraining and training": self.pretraining.epochs > 0,
        }
        for stages_of, are_used in stages.items():
            if are_used and self.max_minutes:
                raise ValueError(
                    f"trainer.{stages_of} have no common limit of time; set trainer.max_minutes to "
                    "0"
                )
        if self.pretraining.epochs and self.augmentation.rotation >= _TURNED:
            raise ValueError(
                "trainer.pretraining.epochs: tells turns of 90 degrees apart, which "
                f"trainer.augmentation.rotation = {self.augmentation.rotation:g} hides; set it "
                f"below {_TURNED}"
            )
        return self

    @property
    def learns_unlabelled(self) -> bool:
        """Whether the unlabelled split is used if there is one."""
        return self.semi_supervised.enabled

    def count_starts(self, unlabelled: int) -> int:
        """Returns how many random starts a training with so many unlabelled images compares."""
        # One image alone looks like no other.
        can_compare = self.learns_unlabelled and self.objective.alpha > 0 and unlabelled > 1
        return self.semi_supervised.starts if can_compare else 1

    def count_teachers(self, unlabelled: int) -> int:
        """Returns how many teachers a training with so many unlabelled images has."""
        can_teach = self.learns_unlabelled and self.objective.alpha > 0 and unlabelled > 0
        return self.semi_supervised.teachers if can_teach else 0


def check_consistent(image: ImageConfig, model: ModelConfig, trainer: TrainerConfig) -> None:
    """Rejects combinations of options across sections that cannot work.

    Raises:
        ValueError: a combination cannot work; the message is one line that names the key.
    """
    if trainer.pretraining.epochs:
        _check_pretraining(image, model)
    if trainer.tuner.enabled:
        check_space(trainer.tuner, model, trainer)
    least = model.backbone.least_side
    if model.encoder == "backbone" and min(image.height, image.width) < least:
        raise ValueError(
            f"model.backbone.name: {model.backbone.name} needs images of at least {least}x{least} "
            f"pixels, image is {image.height}x{image.width}; set image.height and image.width"
        )
    if "conv" in (model.encoder, model.decoder_kind) and min(image.height, image.width) < 8:
        raise ValueError(
            f"model.encoder: conv needs images of at least 8x8 pixels, image is "
            f"{image.height}x{image.width}; use mlp"
        )
    if trainer.objective.binarise and model.observation != "bernoulli":
        raise ValueError(
            f"trainer.objective.binarise: goes with model.observation = bernoulli, not "
            f"{model.observation}"
        )
    if trainer.objective.bound == "importance" and model.conditioning == "hidden":
        raise ValueError(
            "trainer.objective.bound: importance needs a decoder that is a density of the image; "
            "model.conditioning = hidden is none"
        )
    stopping, tuner = trainer.early_stopping, trainer.tuner
    watched = {
        "early_stopping": stopping.patience > 0 or stopping.keep == "best",
        "tuner": tuner.enabled,
    }
    for section, is_used in watched.items():
        metric = getattr(trainer, section).metric
        if is_used and metric == "elbo" and model.conditioning == "hidden":
            raise ValueError(
                f"trainer.{section}.metric: elbo is not measured with model.conditioning = hidden;"
                " choose loss, cross_entropy or accuracy"
            )
    score = trainer.calibration.outlier_score
    if score in (*DENSITY_SCORES, "combined") and model.conditioning == "hidden":
        raise ValueError(
            f"trainer.calibration.outlier_score: {score} needs a decoder that is a density of the "
            "image; model.conditioning = hidden is none. Choose auto, energy, neighbours, "
            "mahalanobis or relative_mahalanobis"
        )
    if trainer.objective.alpha == 0 and model.conditioning == "label":
        raise ValueError(
            "trainer.objective.alpha: 0 trains no classifier, which model.conditioning = label "
            "needs"
        )


def _check_pretraining(image: ImageConfig, model: ModelConfig) -> None:
    key = "trainer.pretraining.epochs"
    if image.height != image.width:
        raise ValueError(
            f"{key}: turns square images, image is {image.height}x{image.width}; set image.height "
            "and image.width to one size, or pretraining to 0 epochs"
        )
    backbone = model.backbone_options
    if backbone is not None and backbone.is_pretrained:
        raise ValueError(
            f"{key}: model.backbone.weights = {backbone.weights} has learned to see already; set "
            "pretraining to 0 epochs, or the weights to none"
        )
