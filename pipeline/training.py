"""Prepares a training from the arguments of TFX's Trainer or Tuner.

`run_fn.py` and `tuner_fn.py` call it.
"""

import dataclasses
import json
import posixpath
from typing import Any

import numpy as np

from trainer.backbone_weights import digest_of
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.data import features
from trainer.data.input_pipeline import ImageSet, load_splits
from trainer.data.preprocessing import RecordTransform
from trainer.optimization import strategy as strategies
from trainer.search.tuning_space import apply
from trainer.storage import files

_SPLIT_PREFIX = "Split-"
_MIB = 1024 * 1024

# Splits that training and calibration may use. The test split is reserved for the gate.
_SPLITS = (features.TRAIN, features.VALIDATION, features.CALIBRATION, features.UNLABELLED)


@dataclasses.dataclass(frozen=True)
class Training:
    """The options, images and graph of one training.

    Attributes:
        options: the sections that determine the model, as plain values, with the tuner's choice
            applied.
        image: options of the model's input images.
        model: options of the network.
        trainer: options of the training.
        transform: the Transform graph.
        data: images by split name, without the test split.
        strategy: the distribution strategy.
    """

    options: dict[str, Any]
    image: ImageConfig
    model: ModelConfig
    trainer: TrainerConfig
    transform: RecordTransform
    data: dict[str, ImageSet]
    strategy: Any

    def arguments(self) -> dict[str, Any]:
        """Returns the shared arguments of `trainer.train.train` and the tuner.

        They are all but options, strategy and folder.
        """
        mean, std = self.transform.moments()
        return {
            "data": self.data,
            "image_shape": self.image.shape,
            "num_classes": len(self.transform.classes),
            "pixel_mean": mean.tolist(),
            # A constant channel cannot be scaled to unit variance.
            "pixel_std": np.where(std > 0, std, 1.0).tolist(),
        }

    def identity(self, base: str = "") -> dict[str, Any]:
        """Returns everything that the weights depend on except the code, as plain values.

        Args:
            base: digest of the model that the training starts from; empty for a cold start.
        """
        mean, std = self.transform.moments()
        return {
            "options": self.options,
            "images": {split: images.digest for split, images in self.data.items()},
            "classes": list(self.transform.classes),
            "moments": [mean.tolist(), std.tolist()],
            "replicas": self.strategy.num_replicas_in_sync,
            **({"base": base} if base else {}),
            **({"weights": weights} if (weights := digest_of(self.model.backbone_options)) else {}),
        }


def prepare(fn_args: Any, *, scratch: str) -> Training:
    """Reads options, images and the Transform graph from TFX's arguments.

    Args:
        fn_args: TFX's `FnArgs`. `custom_config` contains `training`, the JSON of the sections that
            determine the model. `hyperparameters` is the tuner's choice, if it ran.
        scratch: folder for decoded images that do not fit in memory; if it is remote, the system's
            temporary folder is used instead.

    Raises:
        ValueError: No model can be trained with the options and data; the message tells why.
    """
    options = json.loads(fn_args.custom_config["training"])
    image = ImageConfig(**options["image"])
    model, trainer = ModelConfig(**options["model"]), TrainerConfig(**options["trainer"])
    if fn_args.hyperparameters:
        model, trainer = apply(fn_args.hyperparameters["values"], model, trainer)
        options["model"] = model.model_dump(mode="json")
        options["trainer"] = trainer.model_dump(mode="json")
    # A multi-worker strategy must be created before any other TensorFlow operation.
    strategy = strategies.create_strategy(trainer.devices)
    transform = RecordTransform(fn_args.transform_graph_path, image)
    return Training(
        options=options,
        image=image,
        model=model,
        trainer=trainer,
        transform=transform,
        data=_load_splits(fn_args, transform, image, trainer, _local(scratch)),
        strategy=strategy,
    )


def _local(folder: str) -> str | None:
    """Returns the folder, or None if it is remote, where files cannot be memory-mapped."""
    return None if "://" in folder else folder


def _load_splits(
    fn_args: Any,
    transform: RecordTransform,
    image: ImageConfig,
    config: TrainerConfig,
    cache_dir: str | None,
) -> dict[str, ImageSet]:
    patterns = {split: split_files(fn_args, split) for split in _SPLITS}
    return load_splits(
        {split: [pattern] for split, pattern in patterns.items() if files.matching(pattern)},
        transform.decode_examples,
        image_shape=image.shape,
        memory_limit_bytes=config.memory_limit_mb * _MIB,
        cache_dir=cache_dir,
    )


def split_files(fn_args: Any, split: str) -> str:
    """Returns the file pattern of a split's records, which may match nothing.

    TFX lists only the files of requested splits and fails if one is missing; the files of the
    other splits are next to them.
    """
    (pattern,) = fn_args.train_files
    examples = posixpath.dirname(posixpath.dirname(pattern))
    return posixpath.join(examples, _SPLIT_PREFIX + split, "*")
