"""Recipes: which one is taken, that set options win, and that every recipe is valid."""

import pathlib
from typing import Any, get_args

import pytest
import yaml

from pipeline.config import ConfigError, PipelineConfig, parse_config, to_yaml
from trainer.__main__ import read_config
from trainer.config import ModelConfig, TrainerConfig
from trainer.recipes import RECIPES, RecipeName, apply_recipe, recipe_line

COLOUR = {"height": 32, "width": 32, "channels": 3}
CONV = {"encoder": "conv"}


def parsed(**sections: Any) -> PipelineConfig:
    return parse_config({"input": {"paths": "a.zip"}, **sections})


@pytest.mark.parametrize(
    ("image", "model", "name"),
    [
        ({}, CONV, "conv_grey"),
        (COLOUR, CONV, "conv_colour"),
        ({**COLOUR, "height": 64, "width": 64}, CONV, "conv_photos"),
        ({"height": 200, "width": 100}, CONV, "conv_photos"),
        ({}, {}, "none"),
        (COLOUR, {"encoder": "backbone"}, "none"),
    ],
)
def test_encoder_and_image_choose_the_recipe(
    image: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    config = parsed(image=image, model=model)
    recipe: Any = RECIPES.get(name, {})
    assert config.recipe == name
    assert config.model == ModelConfig.model_validate({**recipe.get("model", {}), **model})
    assert config.trainer == TrainerConfig.model_validate(recipe.get("trainer", {}))


def test_recipes_have_the_names_that_the_option_takes() -> None:
    assert set(get_args(RecipeName)) == {"auto", "none", *RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_named_and_flips_nothing(name: str) -> None:
    config = parsed(recipe=name)
    assert config.model.encoder == "conv"
    # Mirrored digits and letters are other classes, or none.
    assert not config.trainer.augmentation.horizontal_flip
    assert name in recipe_line(config.recipe, config.trainer)
    assert parse_config(yaml.safe_load(to_yaml(config))) == config


def test_what_is_set_wins_option_by_option() -> None:
    sections: dict[str, Any] = {
        "model": {**CONV, "observation": "bernoulli"},
        "trainer": {"optimizer": {"learning_rate": 0.01}, "augmentation": {"cutout": 0}},
    }
    config = parsed(image=COLOUR, **sections)
    optimizer = config.trainer.optimizer
    assert (optimizer.learning_rate, optimizer.schedule) == (0.01, "cosine")
    assert (config.trainer.augmentation.cutout, config.trainer.augmentation.zoom) == (0, 0.15)
    assert config.model.observation == "bernoulli"
    made = PipelineConfig.model_validate(
        {
            "input": {"paths": "a.zip"},
            "image": COLOUR,
            "model": ModelConfig.model_validate(sections["model"]),
            "trainer": TrainerConfig.model_validate(sections["trainer"]),
        }
    )
    assert made == config
    plain = parsed(recipe="none", image=COLOUR, model=CONV)
    assert (plain.model, plain.trainer) == (ModelConfig(encoder="conv"), TrainerConfig())


def test_a_recipe_contradicts_nothing_that_is_set() -> None:
    short = parsed(image=COLOUR, model=CONV, trainer={"epochs": 0.5})
    assert short.trainer.optimizer.warmup_epochs == 0.125
    black = parsed(image=COLOUR, model=CONV, trainer={"objective": {"binarise": True}})
    assert black.model.observation == "bernoulli"


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"recipe": "conv"}, "recipe: Input should be 'auto', 'none', .*got 'conv'"),
        ({"recipe": ["auto"]}, "recipe: Input should be"),
        ({"model": {"encoder": "cnn"}}, "model.encoder: Input should be"),
        ({"recipe": "conv_grey", "trainer": None}, "trainer: expected keys and values"),
        ({"recipe": "conv_grey", "trainer": {"optimizer": 3}}, "trainer.optimizer: expected keys"),
        ({"model": CONV, "trainer": {"epochs": "many"}}, "trainer.epochs: .*got 'many'"),
    ],
)
def test_faults_are_those_of_what_is_set(sections: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        parsed(**sections)
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_without_a_pipeline_takes_the_same_recipe(tmp_path: pathlib.Path) -> None:
    tree = {"image": COLOUR, "model": CONV, "trainer": {"epochs": 3}, "push": {"keep": 1}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    config = parsed(image=COLOUR, model=CONV, trainer={"epochs": 3})
    assert read_config(file) == (config.image, config.model, config.trainer)
    file.write_text(yaml.safe_dump({**tree, "recipe": "best"}), encoding="utf-8")
    with pytest.raises(ValueError, match="recipe: Input should be"):
        read_config(file)


def test_the_table_of_recipes_stays_as_it_is() -> None:
    filled = apply_recipe({"recipe": "conv_colour", "trainer": {"epochs": 1}})
    filled["trainer"]["optimizer"]["schedule"] = "constant"
    assert RECIPES["conv_colour"]["trainer"]["optimizer"]["schedule"] == "cosine"
    assert RECIPES["conv_colour"]["trainer"]["optimizer"]["warmup_epochs"] == 1
