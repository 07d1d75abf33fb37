"""Creates the models of one training, with the weights that it starts from.

`train.py` uses it: a training builds several models, such as one for each data type, each teacher
and each random start, and what is known of their weights has to be the same in all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.backbone_weights import read_weights
from trainer.config import ModelConfig
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import digest_arrays
from trainer.optimization.warm_start import Base, WarmStart, begin_with, fit_base


class ModelFactory:
    """Creates models with random weights, or with those that the training starts from.

    Args:
        config: options of the network.
        image_shape: (height, width, channels).
        num_classes: number of classes K.
        pixel_mean: mean of each channel over the train split, pixels in [0, 1].
        pixel_std: standard deviation of each channel over the train split.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_shape: Sequence[int],
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        self._arguments: dict[str, Any] = {
            "config": config,
            "image_shape": image_shape,
            "pixel_mean": pixel_mean,
            "pixel_std": pixel_std,
        }
        self._num_classes = num_classes
        backbone = config.backbone_options
        self._backbone: list[np.ndarray] | None = None
        self._digests: list[str] = []
        if backbone is not None and backbone.is_pretrained:
            self._backbone = read_weights(backbone, image_shape)
            self._digests = [digest_arrays(self._backbone)]
        self._start: WarmStart | None = None

    def start_from(self, base: Base, classes: Sequence[str]) -> WarmStart:
        """Lets `build` begin with an earlier model's weights, as far as they fit."""
        self._start = fit_base(base, self.create("float32"), classes)
        return self._start

    def create(self, body_dtype: str, num_classes: int | None = None) -> VaeClassifier:
        """Creates a model with random weights; by default for the classes of the training."""
        outputs = self._num_classes if num_classes is None else num_classes
        return VaeClassifier(body_dtype=body_dtype, num_classes=outputs, **self._arguments)

    def build(self, body_dtype: str) -> VaeClassifier:
        """Creates a model with the weights that the training starts from."""
        model = self.create(body_dtype)
        if self._backbone is not None:
            model.encoder.set_weights(self._backbone)
        # An earlier model takes the place of the backbone's weights as far as it has its own.
        if self._start is not None:
            begin_with(model, self._start)
        return model

    @property
    def origin(self) -> str:
        """Digests of the weights that models of `build` start from; empty for random ones."""
        started = [] if self._start is None else [self._start.digest]
        return "+".join([*self._digests, *started])
