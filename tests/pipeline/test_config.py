"""The configuration: what holds, what does not, and what people are told."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config import (
    ConfigError,
    find_config,
    load_config,
    parse_bulk,
    parse_config,
    to_yaml,
)
from trainer.config import ModelConfig, TrainerConfig

MINIMAL = {"input": {"paths": "archive.zip"}}


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_path_is_all_that_a_configuration_needs() -> None:
    config = parse_config(MINIMAL)
    assert config.input.paths == ("archive.zip",)
    assert config.image.shape == (28, 28, 1)


def test_the_tree_is_frozen() -> None:
    config = parse_config(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.trainer.epochs = 3


def test_yaml_round_trip_keeps_every_value(tmp_path: Path) -> None:
    config = parse_config({**MINIMAL, "schema": {"path": "schema.pbtxt"}})
    assert load_config(write(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "photos"])
def test_presets_hold_and_the_root_is_filled_in(name: str) -> None:
    config = load_config(name, root=Path("/somewhere"))
    assert config.name == name
    assert config.input.paths[0].startswith("/somewhere/")
    assert config.push.directory == "/somewhere/pushed"


def test_classes_may_be_called_yes_and_no(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: on\ninput: {paths: a.zip, labels: {names: [yes, no]}}\n")
    config = load_config(str(path))
    assert (config.name, config.input.labels.names) == ("on", ("yes", "no"))
    given = load_config(str(path), overrides=["input.labels.names=[off, on]"])
    assert given.input.labels.names == ("off", "on")
    assert parse_config(yaml.safe_load(to_yaml(given))) == given


def test_later_overrides_win_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "input: {paths: a.zip}\ntrainer: {epochs: 9}\n")
    config = load_config(
        path, overrides=["trainer.epochs=3", "model.hidden=[64, 32]", "trainer.epochs=4"]
    )
    assert config.trainer.epochs == 4
    assert config.model.hidden == (64, 32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input: {paths: a.zip}\ntrainr: {}\n", "trainr: unknown key; did you mean trainer?"),
        (
            "input: {paths: a.zip}\ntrainer: {epoch: 3}\n",
            "trainer.epoch: unknown key; did you mean epochs?",
        ),
        ("input: {paths: a.zip}\ntrainer: {epochs: many}\n", "trainer.epochs: .*got 'many'"),
        ("input: {paths: a.zip}\nimage: {channels: 2}\n", "image.channels: .*got 2"),
        (
            "input: {paths: a.zip}\nbulk: {columns: 'key,label'}\n",
            r"bulk.columns: expected a list, such as \[a, b\], got 'key,label'",
        ),
        ("image: {height: 8}\n", "input: Field required"),
        ("input: [paths\n", "line 2, column 1"),
        ("- input\n", "expected keys and values, got list"),
        ("input: {paths: a.zip}\ntrainer: 3\n", "trainer: expected keys and values, got 3"),
        ("input: {paths: []}\n", "input.paths: List should have at least 1 item"),
        ("input: {paths: a.zip}\nmodel: {hidden: 3}\n", "model.hidden: expected a list.*, got 3"),
        ("input: {paths: a.zip}\npush: {directory: ~/tuples}\n", "~/tuples: ~ is not replaced"),
        ("input: {paths: a.zip}\nname: a\nname: b\n", "line 3, column 1: the key name is .* twice"),
        ("schedule: {start: 2026-13-01}\n", "line 1, column 19: month must be in 1..12"),
        ("schedule:\n  cron: */5 * * * *\n", "line 2, column 10: .*in quotes"),
        ("schedule: {cron: @daily}\n", "line 1, column 18: .*in quotes"),
        ("push:\n  directory: {root}/pushed\n", "line 2, column 20: .*in quotes"),
        ("beam: {args: [direct_num_workers=2]}\n", "beam.args: direct_num_workers=2 is no option"),
        ("beam: {args: [--a=1, b]}\n", "beam.args: b is no option"),
        ("beam: {args: [--runner, FlinkRunner]}\n", "beam.args: .* --flink_job_server_jar=FILE"),
        ("input:\n\tpaths: a.zip\n", "line 2, column 1: .*indent with spaces"),
        (
            "input: {paths: a.zip}\nimage: {height: 4, width: 4}\nmodel: {encoder: conv}\n",
            "model.encoder: conv needs images of at least 8x8",
        ),
    ],
)
def test_what_does_not_hold_is_named_by_its_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config(write(tmp_path, text))


def test_every_mistake_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, "input: {paths: a.zip}\nfoo: 1\ntrainer: {epochs: x, seed: y}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_file_names_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file; presets are .*digits"):
        find_config("nowhere")


def test_a_folder_of_images_does_not_hide_the_preset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "nowhere"):
        Path(name).mkdir()
    assert find_config("digits").name == "digits.yaml"
    with pytest.raises(ConfigError, match=r"nowhere: is a folder; presets are .*digits"):
        find_config("nowhere")


@pytest.mark.parametrize("override", ["trainer.epochs", "=3", "name.first=3", "input=[a"])
def test_an_override_that_does_not_hold_is_shown(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "name: x\ninput: {paths: a.zip}\n")
    with pytest.raises(ConfigError, match="--set"):
        load_config(path, overrides=[override])


def test_a_preset_is_the_recipe_whose_figures_are_told(tmp_path: Path) -> None:
    from benchmarks import mnist_supervised as measured

    config = load_config("mnist_conv", root=tmp_path)
    assert config.model == ModelConfig.model_validate(measured.MODEL)
    recipe = {**measured.TRAINER, "epochs": config.trainer.epochs, "tensorboard": True}
    assert config.trainer == TrainerConfig.model_validate(recipe)


def test_beam_steps_try_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    import apache_beam as beam
    from apache_beam.runners.portability.prism_runner import PrismRunner

    asked: list[object] = []
    monkeypatch.setattr(PrismRunner, "run_pipeline", lambda *given: asked.append(given))
    args = load_config("digits").beam.args
    with beam.Pipeline(argv=list(args)) as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(str)
    assert not asked


@pytest.mark.parametrize("prefix", ["", "bulk."])
def test_keys_of_a_bulk_job_may_have_their_section(prefix: str) -> None:
    tree: dict[str, Any] = {"input": {"paths": ["a.zip"]}, "model": "m", "output": "o"}
    config = parse_bulk(tree, overrides=[f"{prefix}columns=[key, label]"])
    assert config.columns == ("key", "label")
