"""What TFX's Trainer and Tuner hand to training: options, images and the Transform graph.

Called by `run_fn.py` and `tuner_fn.py`.
"""

import dataclasses
import json
import posixpath
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import features
from trainer import strategy as strategies
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.input_pipeline import ImageSet, load_images
from trainer.preprocessing import RecordTransform
from trainer.tuning_space import apply

_SPLIT_PREFIX = "Split-"
_MIB = 1024 * 1024

# Splits that training and calibration may see. The test split belongs to the gate alone.
_SPLITS = (features.TRAIN, features.VALIDATION, features.CALIBRATION, features.UNLABELLED)


@dataclasses.dataclass(frozen=True)
class Training:
    """One training, ready to start.

    Attributes:
        options: the sections that determine the model, as plain values, with the tuner's choice.
        image: the image that the network sees.
        model: the network's options.
        trainer: the training's options.
        transform: the graph before the model.
        data: images by split name; the test split is not among them.
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
        """What `trainer.train.train` and the tuner take besides options, strategy and folder."""
        mean, std = self.transform.moments()
        return {
            "data": self.data,
            "image_shape": self.image.shape,
            "num_classes": len(self.transform.classes),
            "pixel_mean": mean.tolist(),
            # A channel that never changes has nothing to normalise.
            "pixel_std": np.where(std > 0, std, 1.0).tolist(),
        }

    def identity(self, base: str = "") -> dict[str, Any]:
        """Everything that the weights depend on, as plain values, besides the code.

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
        }


def prepare(fn_args: Any, *, scratch: str) -> Training:
    """Reads what TFX gives.

    Args:
        fn_args: TFX's `FnArgs`; `custom_config` holds `training`, the JSON of the sections that
            determine the model. `hyperparameters` are the tuner's choice, if it ran.
        scratch: folder for decoded images that do not fit in memory; where it is remote, they
            go to the system's temporary folder.

    Raises:
        ValueError: The options or the data can't train a model; the message says why.
    """
    options = json.loads(fn_args.custom_config["training"])
    image = ImageConfig(**options["image"])
    model, trainer = ModelConfig(**options["model"]), TrainerConfig(**options["trainer"])
    if fn_args.hyperparameters:
        model, trainer = apply(fn_args.hyperparameters["values"], model, trainer)
        options["model"] = model.model_dump(mode="json")
        options["trainer"] = trainer.model_dump(mode="json")
    # A multi-worker strategy comes before any other TensorFlow operation.
    strategy = strategies.create_strategy(trainer.devices)
    transform = RecordTransform(fn_args.transform_graph_path)
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
    """The folder, unless it is remote: files can't be mapped into memory from there."""
    return None if "://" in folder else folder


def _load_splits(
    fn_args: Any,
    transform: RecordTransform,
    image: ImageConfig,
    config: TrainerConfig,
    cache_dir: str | None,
) -> dict[str, ImageSet]:
    decode = tf.function(transform.decode_examples, autograph=False)
    data = {}
    for split in _SPLITS:
        pattern = split_files(fn_args, split)
        if tf.io.gfile.glob(pattern):
            data[split] = load_images(
                [pattern],
                decode,
                image_shape=image.shape,
                memory_limit_bytes=config.memory_limit_mb * _MIB,
                cache_dir=cache_dir,
            )
    return data


def split_files(fn_args: Any, split: str) -> str:
    """Returns the pattern of a split's records, which may match nothing.

    TFX names only the files of the splits that it is asked for and fails on one that is not
    there; the others lie beside them.
    """
    (pattern,) = fn_args.train_files
    examples = posixpath.dirname(posixpath.dirname(pattern))
    return posixpath.join(examples, _SPLIT_PREFIX + split, "*")
