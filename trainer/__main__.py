"""`python -m trainer`: trains from a folder of Examples, without TFX.

Writes `model.keras` and `model.json` (classes, calibration, summaries) to the output folder.
"""

import argparse
import logging
import os
import pathlib
import sys
from typing import Any

import pydantic

from trainer.backbone_weights import check_weights
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.config_faults import config_faults, read_tree
from trainer.optimization.preemption import PREEMPTED_EXIT_CODE, PreemptedError
from trainer.options import Section
from trainer.recipes import RecipeName, apply_recipe, recipe_line


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__.splitlines()[0])
    parser.add_argument("examples", help="folder with Split-train/* or train*.tfrecord*")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the model")
    parser.add_argument(
        "--config", type=pathlib.Path, help="YAML: recipe, and sections image, model, trainer"
    )
    parser.add_argument(
        "--base-model",
        help="start from this model's weights: a pushed version, DIR@ALIAS, or another --out",
    )
    return parser.parse_args(argv)


class _Options(Section):
    """What a training needs of a configuration; other sections are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore")

    recipe: RecipeName = "auto"
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, tree: Any) -> Any:
        return apply_recipe(tree)


def read_config(path: pathlib.Path | None) -> tuple[ImageConfig, ModelConfig, TrainerConfig]:
    """Reads the sections image, model and trainer of a YAML file, with its recipe applied.

    Raises:
        ValueError: the file is invalid; the message has one line for each wrong key.
    """
    try:
        options = _Options.model_validate(read_tree(path) if path else {})
    except pydantic.ValidationError as error:
        raise ValueError("\n".join(config_faults(error, str(path), _Options))) from error
    if line := recipe_line(options.recipe, options.trainer):
        logging.info("%s", line)
    return options.image, options.model, options.trainer


def main(argv: list[str] | None = None) -> int:
    """Trains a model and returns the exit code.

    It is 0, 1 (an error, reported in one line) or 75 (stopped by SIGTERM).
    """
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        image, model, trainer = read_config(arguments.config)
        if trainer.warm_start and not arguments.base_model:
            raise ValueError("trainer.warm_start: name the model to start from with --base-model")
        if trainer.tuner.enabled:
            logging.warning(
                "trainer.tuner is ignored: only `vaeline run` searches for options; this training"
                " takes those of the configuration"
            )
        check_weights(model.backbone_options)
        _train(arguments.examples, arguments.out, image, model, trainer, arguments.base_model)
    except PreemptedError as stopped:
        logging.warning("%s", stopped)
        return PREEMPTED_EXIT_CODE
    except (ValueError, OSError) as error:
        logging.error("%s", error)
        return 1
    return 0


def _train(
    examples: str,
    out: pathlib.Path,
    image: ImageConfig,
    model: ModelConfig,
    trainer: TrainerConfig,
    base_model: str | None,
) -> None:
    # Imported after parsing, so that `--help` and wrong options do not wait for TensorFlow.
    from trainer.data import examples as folder
    from trainer.model_card import CARD_FILE, ModelCard, format_card
    from trainer.optimization import strategy as strategies
    from trainer.optimization.warm_start import read_base
    from trainer.train import train

    # A multi-worker strategy must be created before any other TensorFlow operation.
    strategy = strategies.create_strategy(trainer.devices)
    splits, classes = folder.load_folder(
        examples,
        image,
        memory_limit_bytes=trainer.memory_limit_mb << 20,
        cache_dir=os.fspath(out / "cache"),
    )
    mean, std = folder.pixel_moments(splits["train"])
    result = train(
        model_config=model,
        trainer_config=trainer,
        data=splits,
        image_shape=image.shape,
        num_classes=max(1, len(classes)),
        pixel_mean=mean,
        pixel_std=std,
        workdir=out,
        strategy=strategy,
        base=read_base(base_model) if base_model else None,
        classes=classes,
    )
    if strategies.is_chief(strategy):
        result.model.save(out / "model.keras")
        facts = {
            "classes": classes,
            "image": image.model_dump(),
            "calibration": result.calibration,
            "summaries": result.summaries,
            "importance_bound": result.bound,
            "arithmetic": result.arithmetic,
            "validation": result.history[-1].get("validation"),
            **({"base": result.warm_start.as_dict()} if result.warm_start else {}),
            **({"pretraining": result.pretraining.as_dict()} if result.pretraining else {}),
            **({"taught": result.taught.as_dict()} if result.taught else {}),
        }
        card = ModelCard.model_validate(facts)
        (out / CARD_FILE).write_text(format_card(card), encoding="utf-8")
    # A worker that exits early would take down the cluster while the chief still needs it.
    strategies.agree(strategy, False)


if __name__ == "__main__":
    sys.exit(main())
