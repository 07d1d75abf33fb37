"""Holds the recipes: settings of model and training that were measured, by kind of image.

`pipeline/config.py` and `python -m trainer` fill with one what a configuration leaves open, and the
benchmarks train with them, so that the figures of docs/benchmarks.md are those of the recipes.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError

from trainer.config import ImageConfig, ModelConfig, TrainerConfig

RecipeName = Literal[
    "auto", "none", "conv_grey", "conv_colour", "conv_photos", "conv_grey_few_labels",
    "conv_colour_few_labels"
]  # fmt: skip

_SECTIONS: Final = ("image", "model", "trainer")
_PHOTO_PIXELS: Final = 64 * 64
"""Images of so many pixels or more get `conv_photos`."""

_COLOUR_AUGMENTATION: Final[Mapping[str, Any]] = {
    "shift": 0.125,
    "rotation": 10,
    "zoom": 0.15,
    "contrast": 0.3,
    "brightness": 0.15,
    "cutout": 0.3,
    "fill": "reflect",
}

_COLOUR_MODEL: Final[Mapping[str, Any]] = {
    "encoder": "conv",
    "decoder": "mlp",
    "conv_blocks": 1,
    "feature_size": 256,
    "latent_size": 64,
    "decoder_hidden": (512,),
    "observation": "discretized_logistic",
    "dropout": 0.3,
}
_COLOUR_OBJECTIVE: Final[Mapping[str, Any]] = {
    "clean_share": 0.1,
    "generative_weight": 0.1,
    "elbo_every": 4,
    "label_smoothing": 0.05,
}
_COLOUR_OPTIMIZER: Final[Mapping[str, Any]] = {
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "ema_decay": 0.98,
    "ema_every": 8,
    "clip_norm": 5.0,
}

RECIPES: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    # Measured by benchmarks/mnist_supervised.py.
    "conv_grey": {
        "model": {
            "encoder": "conv",
            "decoder": "mlp",
            "conv_width": 32,
            "feature_size": 128,
            "latent_size": 32,
            "decoder_hidden": (512, 512),
            "dropout": 0.3,
        },
        "trainer": {
            "epochs": 54,
            "batch_size": 256,
            "augmentation": {
                "rotation": 15,
                "zoom": 0.15,
                "shear": 0.15,
                "shift": 0.07,
                "elastic": 0.05,
            },
            "objective": {"clean_share": 0.15, "elbo_every": 4},
            "optimizer": {
                "learning_rate": 2e-3,
                "beta_2": 0.99,
                "warmup_epochs": 0.5,
                "schedule": "cosine",
                "ema_decay": 0.98,
                "ema_every": 8,
                "clip_norm": 5.0,
            },
        },
    },
    # Measured by benchmarks/cifar.py, with the horizontal flip.
    "conv_colour": {
        "model": {**_COLOUR_MODEL, "conv_width": 64},
        "trainer": {
            "epochs": 140,
            "batch_size": 128,
            "augmentation": _COLOUR_AUGMENTATION,
            "objective": _COLOUR_OBJECTIVE,
            "optimizer": {**_COLOUR_OPTIMIZER, "warmup_epochs": 1, "weight_decay": 0.5},
        },
    },
    # Measured by `vaeline run --config photos`, with the horizontal flip.
    "conv_photos": {
        "model": {
            "encoder": "conv",
            "conv_width": 16,
            "decoder": "mlp",
            "decoder_scale": 4,
            "latent_size": 32,
            "observation": "discretized_logistic",
            # So that near embeddings are of one class (benchmarks/similar_images.py).
            "classifier_input": "both",
            "dropout": 0.3,
        },
        "trainer": {
            "epochs": 60,
            "batch_size": 32,
            "augmentation": _COLOUR_AUGMENTATION,
            "objective": {
                "generative_weight": 0.1,
                "elbo_every": 4,
                "label_smoothing": 0.05,
            },
            "optimizer": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "weight_decay": 0.02,
                "ema_decay": 0.98,
            },
        },
    },
    # Measured by benchmarks/mnist_semi.py. Epochs depend on the number of labels.
    "conv_grey_few_labels": {
        "model": {
            "encoder": "conv",
            "decoder": "mlp",
            "conditioning": "label",
            "conv_width": 32,
            "feature_size": 128,
            "latent_size": 32,
            "decoder_hidden": (512, 512),
            "dropout": 0.2,
        },
        "trainer": {
            "batch_size": 40,
            "augmentation": {
                "rotation": 20,
                "zoom": 0.2,
                "shear": 0.25,
                "shift": 0.09,
                "elastic": 0.05,
                "elastic_ramp": (0.14, 0.28),
                "thickness": 0.5,
            },
            "objective": {"clean_share": 0.1, "generative_weight": 1.0},
            "semi_supervised": {
                "batch_size": 320,
                "elbo_every": 4,
                "consistency": 1.0,
                "confidence": 0.95,
                "ramp": (0.11, 0.22),
                "mutual_information": 1.0,
                "weak_strength": 0.4,
                "starts": 4,
                "starts_share": 0.14,
            },
            "optimizer": {
                "learning_rate": 2e-3,
                "beta_2": 0.99,
                "schedule": "cosine",
                "final_share": 0.05,
                "ema_decay": 0.98,
                "ema_every": 8,
                "clip_norm": 5.0,
            },
        },
    },
    # Measured by benchmarks/cifar_semi.py, with the horizontal flip. Epochs as above.
    "conv_colour_few_labels": {
        "model": {**_COLOUR_MODEL, "conv_width": 32},
        "trainer": {
            "batch_size": 32,
            "augmentation": _COLOUR_AUGMENTATION,
            "objective": _COLOUR_OBJECTIVE,
            "semi_supervised": {
                "batch_size": 96,
                "elbo_every": 8,
                "teachers": 4,
                "teaching": 2.0,
            },
            "pretraining": {"epochs": 160, "batch_size": 128},
            "optimizer": {**_COLOUR_OPTIMIZER, "warmup_epochs": 6, "weight_decay": 0.1},
        },
    },
}


def apply_recipe(tree: Any) -> Any:
    """Fills the options that a configuration does not set with those of its recipe.

    Args:
        tree: Sections by name, not validated: plain values, or sections of which some options are
            set. `recipe` is `auto`, `none` or a name; without it, `auto`.

    Returns:
        The tree with the recipe's options added and `recipe` naming it. An invalid tree stays
        invalid in the same keys, for the validation to report.
    """
    if not isinstance(tree, Mapping):
        return tree
    own = {key: _plain(value) if key in _SECTIONS else value for key, value in tree.items()}
    name = own.get("recipe", "auto")
    if name == "auto":
        name = _choose(own)
    recipe = RECIPES.get(name) if isinstance(name, str) else None
    return {**_merged(_adapted(recipe, own) if recipe else {}, own), "recipe": name}


def recipe_line(name: str, trainer: TrainerConfig) -> str:
    """Returns what a run says about the recipe in use; empty without one."""
    if name not in RECIPES:
        return ""
    line = f"recipe {name} sets the options that the configuration does not"
    if "grey" in name or trainer.augmentation.horizontal_flip:
        return line
    return f"{line}; for photographs add trainer.augmentation.horizontal_flip: true"


def _choose(own: Mapping[str, Any]) -> str:
    """Returns the name of the recipe for an encoder and a kind of image."""
    try:
        image = ImageConfig.model_validate(own.get("image", {}))
        model = ModelConfig.model_validate(own.get("model", {}))
    except ValidationError:
        return "none"
    if model.encoder != "conv":
        return "none"
    if image.height * image.width >= _PHOTO_PIXELS:
        return "conv_photos"
    return "conv_grey" if image.channels == 1 else "conv_colour"


def _adapted(recipe: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recipe without what would contradict options that are set."""
    adapted = _merged({}, recipe)
    epochs = _at(own, "trainer", "epochs")
    optimizer = adapted["trainer"]["optimizer"]
    if isinstance(epochs, int | float) and "warmup_epochs" in optimizer:
        optimizer["warmup_epochs"] = min(optimizer["warmup_epochs"], epochs / 4)
    if _at(own, "trainer", "objective", "binarise"):
        adapted["model"].pop("observation", None)
    return adapted


def _plain(value: Any) -> Any:
    """Returns sections as mappings of the options that are set."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True, by_alias=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `own` with those of the defaults that it lacks, at every depth."""
    merged = dict(defaults)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            value = _merged(below if isinstance(below, Mapping) else {}, value)
        merged[key] = value
    return merged
