"""TFX's Trainer enters here: from its arguments to a trained, calibrated and exported model."""

import hashlib
import json
import logging
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from pipeline.digests import library_versions, value_digest
from pipeline.pictures import draw_training
from serving.export import export_model
from serving.golden import MOST_IMAGES
from trainer import features
from trainer.callbacks import Progress
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.input_pipeline import ImageSet, load_images
from trainer.preprocessing import RecordTransform, parse_records
from trainer.progress import PROGRESS_LOGGER
from trainer.train import TrainResult, train

_LOG = logging.getLogger(PROGRESS_LOGGER)
_SPLIT_PREFIX = "Split-"
_MIB = 1024 * 1024
_DIGEST_LENGTH = 16

PICTURES = "pictures"
"""Folder of the pictures, in the model run."""

# Splits that training and calibration may see. The test split belongs to the gate alone.
_SPLITS = (features.TRAIN, features.VALIDATION, features.CALIBRATION, features.UNLABELLED)


def run_fn(fn_args: Any) -> None:
    """Trains a model and writes it where TFX wants it.

    Args:
        fn_args: TFX's `FnArgs`; `custom_config` holds `training`, the JSON of the sections that
            determine the model, and `code_digest`.

    Raises:
        ValueError: The data can't train this model; the message says why.
    """
    tree = json.loads(fn_args.custom_config["training"])
    image_config = ImageConfig(**tree["image"])
    trainer_config = TrainerConfig(**tree["trainer"])
    transform = RecordTransform(fn_args.transform_graph_path)
    data = _load_splits(fn_args, transform, image_config, trainer_config)
    mean, std = transform.moments()
    _LOG.info("%s", ", ".join(f"{len(images):,} {split}" for split, images in data.items()))
    result = train(
        model_config=ModelConfig(**tree["model"]),
        trainer_config=trainer_config,
        data=data,
        image_shape=image_config.shape,
        num_classes=len(transform.classes),
        pixel_mean=mean.tolist(),
        # A channel that never changes has nothing to normalise.
        pixel_std=np.where(std > 0, std, 1.0).tolist(),
        workdir=fn_args.model_run_dir,
        progress=_report,
    )
    export_model(
        fn_args.serving_model_dir,
        model=result.model,
        transform=transform,
        card=_card(fn_args, tree, result, data),
        config_yaml=yaml.safe_dump(tree, sort_keys=False, allow_unicode=True),
        golden=_golden_files(fn_args),
    )
    draw_training(
        Path(fn_args.model_run_dir) / PICTURES,
        model=result.model,
        images=data.get(features.VALIDATION, data[features.TRAIN]),
        classes=transform.classes,
    )


def _load_splits(
    fn_args: Any, transform: RecordTransform, image: ImageConfig, config: TrainerConfig
) -> dict[str, ImageSet]:
    decode = tf.function(transform.decode_examples, autograph=False)
    data = {}
    for split in _SPLITS:
        pattern = _files_of(fn_args, split)
        if tf.io.gfile.glob(pattern):
            data[split] = load_images(
                [pattern],
                decode,
                image_shape=image.shape,
                memory_limit_bytes=config.memory_limit_mb * _MIB,
            )
    return data


def _files_of(fn_args: Any, split: str) -> str:
    # TFX names only the files of the splits that it is asked for and fails on one that is not
    # there; the others lie beside them.
    (pattern,) = fn_args.train_files
    examples = posixpath.dirname(posixpath.dirname(pattern))
    return posixpath.join(examples, _SPLIT_PREFIX + split, "*")


def _golden_files(fn_args: Any) -> list[bytes]:
    """Reads image files of the validation split, or of train, for the export's golden set."""
    for split in (features.VALIDATION, features.TRAIN):
        files = sorted(tf.io.gfile.glob(_files_of(fn_args, split)))
        if files:
            compression = "GZIP" if files[0].endswith(".gz") else ""
            records = tf.data.TFRecordDataset(files, compression_type=compression)
            batch = next(iter(records.batch(MOST_IMAGES)))
            encoded, _ = parse_records(batch)
            return [bytes(file) for file in encoded.numpy()]
    return []


def _card(
    fn_args: Any, tree: dict[str, Any], result: TrainResult, data: dict[str, ImageSet]
) -> dict[str, Any]:
    model = result.model
    fitted = {weight.path: weight.numpy() for weight in model.scores.weights}
    return {
        "name": tree["name"],
        "digests": {
            "model": _digest_arrays({w.path: w.numpy() for w in model.weights}),
            "transform": _digest_files(Path(fn_args.transform_graph_path)),
            "calibration": _digest_arrays(fitted),
            "code": fn_args.custom_config["code_digest"],
            "config": value_digest(tree),
        },
        "images": {split: len(images) for split, images in data.items()},
        "calibration": result.calibration,
        "summaries": result.summaries,
        "steps": result.steps,
        "libraries": library_versions(),
    }


def _digest_arrays(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _digest_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _report(event: Progress) -> None:
    _LOG.info("%s", event.line())
