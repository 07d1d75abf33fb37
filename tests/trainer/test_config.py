"""Impossible options get one line that names the key."""

from typing import Any

import pydantic
import pytest
import yaml

from tests.trainer import tiny
from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ModelConfig, {"encoder": "resnet"}, "'mlp', 'conv' or 'backbone'"),
        (ModelConfig, {"widths": 3}, "Extra inputs are not permitted"),
        (ModelConfig, {"log_variance_bounds": (1, -1)}, r"model\.log_variance_bounds"),
        (ModelConfig, {"elbo_samples": 3}, r"model\.elbo_samples: 3 is odd"),
        (ModelConfig, {"neighbours": 9, "neighbour_bank": 4}, r"model\.neighbours: 9"),
        (ModelConfig, {"hidden": (0,)}, r"model\.hidden"),
        (TrainerConfig, {"objective": {"alpha": 0, "generative_weight": 0}}, "nothing is learned"),
        (TrainerConfig, {"objective": {"bound": "importance", "beta": 2}}, r"objective\.beta"),
        (
            TrainerConfig,
            {"objective": {"bound": "importance", "beta_warmup_epochs": 1}},
            r"objective\.beta_warmup_epochs",
        ),
        (
            TrainerConfig,
            {"augmentation": {"elastic_ramp": (0, 1.2)}},
            r"augmentation\.elastic_ramp",
        ),
        (TrainerConfig, {"semi_supervised": {"ramp": (0.5, 0.2)}}, r"semi_supervised\.ramp"),
        (TrainerConfig, {"epochs": 1, "optimizer": {"warmup_epochs": 2}}, r"warmup_epochs: 2"),
        (TrainerConfig, {"semi_supervised": {"consistency": 1}}, "changes nothing"),
        (TrainerConfig, {"calibration": {"reject_rate": 0.5}}, r"calibration\.reject_rate"),
        (TrainerConfig, {"tuner": {"space": {"epochs": {"values": [1]}}}}, "must start with"),
        (TrainerConfig, {"tuner": {"space": {"model.dropout": {}}}}, "either `values`, or"),
    ],
)
def test_wrong_options(section: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        section.model_validate(values)


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_a_word_that_yaml_takes_for_a_boolean_is_the_word(word: str) -> None:
    assert TrainerConfig.model_validate(yaml.safe_load(f"xla: {word}")).xla == word
    with pytest.raises(pydantic.ValidationError, match="'float32'"):
        TrainerConfig.model_validate({"precision": False})
    assert TrainerConfig.model_validate(yaml.safe_load("tensorboard: off")).tensorboard is False


@pytest.mark.parametrize(
    ("text", "xla", "tensorboard"), [("on", "on", True), ("yes", "on", True), ("no", "off", False)]
)
def test_words_are_words_or_booleans_as_the_option_wants(
    text: str, xla: str, tensorboard: bool
) -> None:
    values = parse_yaml(f"{{xla: {text}, tensorboard: {text}}}")
    assert values == {"xla": text, "tensorboard": text}
    config = TrainerConfig.model_validate(values)
    assert (config.xla, config.tensorboard) == (xla, tensorboard)


def test_only_true_and_false_are_booleans() -> None:
    text = "{no: [yes, on, Off], names: [true, False, null, 1, y]}"
    assert parse_yaml(text) == {"no": ["yes", "on", "Off"], "names": [True, False, None, 1, "y"]}


@pytest.mark.parametrize(
    "text", ["{a: 1, b: {c: 1, c: 2}}", "a: 1\nb: 2\na: 3\n", "- {<<: &x {a: 1}, b: 1, b: 2}"]
)
def test_a_key_that_is_given_twice_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"the key [abc] is given twice"):
        parse_yaml(text)


def test_a_merged_key_may_be_given_again() -> None:
    # The second merge is resolved before the first mapping is built.
    tree = parse_yaml("x: {b: &b {<<: &a {k: 1, l: 1}, k: 2}}\nc: {<<: *b, l: 3}\n")
    assert tree == {"x": {"b": {"k": 2, "l": 1}}, "c": {"k": 2, "l": 3}}


def test_a_date_that_does_not_exist_is_named_by_its_place() -> None:
    with pytest.raises(yaml.YAMLError, match=r"month must be in 1\.\.12(?s:.*)line 2"):
        parse_yaml("a: 1\nstart: 2026-13-01\n")


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_are_finite(number: float) -> None:
    with pytest.raises(pydantic.ValidationError, match="finite number"):
        TrainerConfig.model_validate({"epochs": number})


@pytest.mark.parametrize(
    ("image", "model", "trainer", "message"),
    [
        ({"height": 6, "width": 40}, {"encoder": "conv"}, {}, r"model\.encoder: conv needs"),
        ({}, {"observation": "gaussian"}, {"objective": {"binarise": True}}, "binarise"),
        ({}, {"conditioning": "hidden"}, {"objective": {"bound": "importance"}}, "bound"),
        ({}, {"conditioning": "label"}, {"objective": {"alpha": 0}}, r"objective\.alpha"),
        (
            {},
            {"conditioning": "hidden"},
            {"early_stopping": {"metric": "elbo", "patience": 3}},
            r"early_stopping\.metric: elbo",
        ),
        (
            {},
            {"conditioning": "hidden"},
            {"tuner": {"enabled": True, "metric": "elbo"}},
            r"tuner\.metric: elbo",
        ),
        (
            {},
            {"conditioning": "hidden"},
            {"calibration": {"outlier_score": "combined"}},
            r"calibration\.outlier_score: combined",
        ),
    ],
)
def test_combinations_that_contradict(
    image: dict[str, Any], model: dict[str, Any], trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_consistent(
            ImageConfig.model_validate(image),
            ModelConfig.model_validate(model),
            TrainerConfig.model_validate(trainer),
        )


def test_sections_are_frozen_and_survive_json() -> None:
    config = tiny.trainer_config(augmentation={"rotation": 5})
    assert TrainerConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.epochs = 3


def test_augmentation_scales_its_bounds() -> None:
    strong = tiny.trainer_config(augmentation={"rotation": 20, "shift": 0.2}).augmentation
    weak = strong.scaled(0.5)
    assert (weak.rotation, weak.shift, weak.enabled) == (10, 0.1, True)
    assert not strong.scaled(0).enabled
