"""Defines the entry point of TFX's Trainer, which trains, calibrates and exports a model."""

import logging
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import yaml
from more_itertools import peekable

from pipeline.digests import value_digest
from pipeline.ingested_mix import count_images, read_finding_bounds, read_mix
from pipeline.pictures import draw_training
from pipeline.training import Training, prepare, split_files
from pipeline.training_folder import FOLDERS, publish, remove_training, training_folder
from serving.export import export_model
from trainer.data import features
from trainer.data.preprocessing import parse_records
from trainer.errors import InputError
from trainer.installed import library_versions
from trainer.model.weights import digest_weights
from trainer.model_card import ModelCard
from trainer.optimization import strategy as strategies
from trainer.optimization.callbacks import TrainingProgress
from trainer.optimization.warm_start import Base, read_base
from trainer.progress import PROGRESS_LOGGER
from trainer.quality.importance import sampled_bound
from trainer.storage import files
from trainer.train import TrainResult, train

_LOG = logging.getLogger(PROGRESS_LOGGER)
_DIGEST_LENGTH = 16

LABELLED_ONLY = "labelled_only"
"""Key in `custom_config` of the training that shows what the unlabelled images are good for."""

PICTURES = "pictures"
"""Name of the folder of pictures in the model run."""


def run_fn(fn_args: Any) -> None:
    """Trains a model and writes it to the folder that TFX expects.

    With several workers (TF_CONFIG), all call it with equal arguments. The chief writes, and no
    worker returns before the export exists, because TFX looks for it on each of them.

    Args:
        fn_args: TFX's `FnArgs`. `custom_config` contains `training`, the JSON of the sections that
            determine the model, `code_digest`, and `training_folders`, the location of interrupted
            trainings. `hyperparameters` is the tuner's choice, if it ran; `base_model` is the
            model to start from, if there is one.

    Raises:
        ValueError: This model cannot be trained on the data; the message tells why.
        PreemptedError: SIGTERM was received; the same training resumes when it is started again.
    """
    training = prepare(fn_args, scratch=fn_args.model_run_dir)
    if fn_args.custom_config.get(LABELLED_ONLY) and not training.data.get(features.UNLABELLED):
        raise InputError(
            "evaluation.labelled_only: there are no unlabelled images to compare with; set it to"
            " off, or add images without a label"
        )
    is_chief = strategies.is_chief(training.strategy)
    code = fn_args.custom_config["code_digest"]
    base = read_base_model(fn_args)
    identity = {"code": code, **training.identity(base.digest if base else "")}
    folder = training_folder(fn_args.custom_config[FOLDERS], "trainer", identity)
    _LOG.info("%s", ", ".join(f"{len(images):,} {name}" for name, images in training.data.items()))
    result = train(
        model_config=training.model,
        trainer_config=training.trainer,
        workdir=folder,
        strategy=training.strategy,
        progress=_report,
        base=base,
        classes=training.transform.classes,
        **training.arguments(),
    )
    if is_chief:
        _write(fn_args, training, result)
        publish(folder, fn_args.model_run_dir)
    strategies.agree(training.strategy, False)
    if is_chief:
        remove_training(folder)


def read_base_model(fn_args: Any) -> Base | None:
    """Reads the model to start from; None if the graph names none or it has no files."""
    folder = fn_args.base_model
    # On a cluster there is always an artifact, which is empty before the first push.
    if not folder or not files.is_folder(folder):
        return None
    return read_base(folder)


def _write(fn_args: Any, training: Training, result: TrainResult) -> None:
    """Exports the model and draws its pictures."""
    options = training.options
    export_model(
        fn_args.serving_model_dir,
        model=result.model,
        transform=training.transform,
        card=_card(fn_args, training, result),
        config_yaml=yaml.safe_dump(options, sort_keys=False, allow_unicode=True),
        golden=_golden_files(fn_args),
        held_out=result.held_out,
        max_pixels=options["input"]["limits"]["max_pixels"],
        sampled_bound=sampled_bound(
            result.model,
            training.trainer.importance_samples,
            count_images(fn_args.train_files, features.TEST),
        ),
    )
    draw_training(
        posixpath.join(fn_args.model_run_dir, PICTURES),
        model=result.model,
        images=training.data.get(features.VALIDATION) or training.data[features.TRAIN],
        classes=training.transform.classes,
    )


def _golden_files(fn_args: Any) -> Iterator[bytes]:
    """Reads image files for the golden set from the validation split, otherwise from train."""
    for split in (features.VALIDATION, features.TRAIN):
        # A split of no images may have files, too.
        if images := peekable(_image_files(files.matching(split_files(fn_args, split)))):
            return images
    return iter(())


def _image_files(paths: list[str]) -> Iterator[bytes]:
    """Reads one record at a time, because the golden set takes few of large photographs."""
    if paths:
        compression = "GZIP" if paths[0].endswith(".gz") else ""
        for record in tf.data.TFRecordDataset(paths, compression_type=compression):
            encoded, _ = parse_records(record[tf.newaxis])
            yield encoded[0].numpy()


def _card(fn_args: Any, training: Training, result: TrainResult) -> ModelCard:
    model = result.model
    facts = {
        "name": training.options["name"],
        "digests": {
            "model": digest_weights(model.weights),
            "transform": files.digest(fn_args.transform_graph_path)[:_DIGEST_LENGTH],
            "calibration": digest_weights(model.scores.weights),
            "code": fn_args.custom_config["code_digest"],
            "config": value_digest(training.options),
        },
        "images": {split: len(images) for split, images in training.data.items()},
        "calibration": result.calibration,
        "summaries": {**result.summaries, **read_mix(fn_args.train_files)},
        "importance_bound": result.bound,
        "arithmetic": result.arithmetic,
        "findings": read_finding_bounds(fn_args.train_files),
        "steps": result.steps,
        "libraries": library_versions(),
        **({"base": result.warm_start.as_dict()} if result.warm_start else {}),
        **({"pretraining": result.pretraining.as_dict()} if result.pretraining else {}),
        **({"taught": result.taught.as_dict()} if result.taught else {}),
    }
    return ModelCard.model_validate(facts)


def _report(event: TrainingProgress) -> None:
    _LOG.info("%s", event.line())
