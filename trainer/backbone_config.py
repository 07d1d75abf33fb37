"""Defines the options of `model.encoder: backbone`: a network of `keras.applications`.

`trainer/config.py` embeds them. Importing this module is cheap, because it does not import Keras,
so the names are listed here; a test compares them with those of Keras.
"""

import difflib
import re
from typing import Any, Final

from pydantic import Field, field_validator

from trainer.options import Section

BACKBONES: Final = (
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4",
    "EfficientNetB5", "EfficientNetB6", "EfficientNetB7",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3",
    "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S",
    "InceptionResNetV2", "InceptionV3",
    "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small",
    "NASNetLarge", "NASNetMobile",
    "ResNet101", "ResNet101V2", "ResNet152", "ResNet152V2", "ResNet50", "ResNet50V2",
    "VGG16", "VGG19", "Xception",
)  # fmt: skip

_LEAST_SIDE: Final = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
_LEAST_USUAL_SIDE: Final = 32

IMAGENET: Final = "imagenet"
NONE: Final = "none"
_LAST_BLOCKS: Final = re.compile(r"last ([1-9]\d?) blocks?")


class BackboneConfig(Section):
    """A network of `keras.applications` as the encoder, and how it is fine-tuned."""

    name: str = Field(
        default="EfficientNetV2B0",
        description="backbone encoder: a model of keras.applications, without its classifier",
    )
    weights: str = Field(
        default=IMAGENET,
        description="what it starts from. imagenet: Keras downloads the weights; none: at random; "
        "otherwise the path of a .weights.h5, .h5 or .keras file, or of the folder of a pushed "
        "model, or its alias as in `pushed@champion`, whose encoder is the same backbone",
    )
    train: str = Field(
        default="all",
        description="what of it learns: all, head (nothing of the backbone), or last N blocks; a "
        "block is all layers of one resolution",
    )
    head_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="share of the steps in which only the heads learn, before the backbone joins; "
        "without effect if weights are none",
    )
    rate: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="learning rate of the backbone over that of the heads; without effect if "
        "weights are none",
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in BACKBONES:
            by_lower = {known.lower(): known for known in BACKBONES}
            close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
            raise ValueError(
                f"expected a model of keras.applications (did you mean {by_lower[close[0]]}?)"
            )
        return name

    @field_validator("weights", mode="before")
    @classmethod
    def _restore_none(cls, weights: Any) -> Any:
        """Takes YAML's null, and the empty value, for the word `none`."""
        return NONE if weights in (None, "") else weights

    @field_validator("train")
    @classmethod
    def _is_share(cls, train: str) -> str:
        if train not in ("all", "head") and not _LAST_BLOCKS.fullmatch(train):
            raise ValueError("expected all, head, or last N blocks, as in `last 2 blocks`")
        return train

    @property
    def least_side(self) -> int:
        """Least height and width of an image, pixels."""
        return _LEAST_SIDE.get(self.name, _LEAST_USUAL_SIDE)

    @property
    def path(self) -> str:
        """The file or folder of the weights; empty if they do not come from one."""
        return "" if self.weights in (IMAGENET, NONE) else self.weights

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone starts from given weights."""
        return self.weights != NONE

    @property
    def trained_blocks(self) -> int | None:
        """How many blocks learn, counted from the end; None if all of the backbone learns."""
        if self.train == "all":
            return None
        found = _LAST_BLOCKS.fullmatch(self.train)
        return int(found.group(1)) if found else 0

    def frozen_steps(self, total_steps: int) -> int:
        """Returns the number of steps at the start in which only the heads learn."""
        return round(self.head_share * total_steps) if self.is_pretrained else 0

    @property
    def relative_rate(self) -> float:
        """The backbone's learning rate over that of the heads."""
        return self.rate if self.is_pretrained else 1.0
