"""The command as people run it: help, doctor, and what wrong input gets."""

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from PIL import Image

from tests.forked import vaeline


def assert_refused(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """Asserts a non-zero exit with a line that says why, and no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    for part in expected:
        assert part in line


def test_help_lists_every_command() -> None:
    done = vaeline("--help")
    assert done.returncode == 0
    for command in ("run", "demo", "config", "inspect", "classify", "predict", "models", "doctor"):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize(
    "command",
    ["run", "demo", "config", "classify", "predict", "models list", "models rollback",
     "models prune", "models alias", "models serving-config",
     "doctor"],
)  # fmt: skip
def test_every_command_explains_itself(command: str) -> None:
    done = vaeline(*command.split(), "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_the_whole_configuration_is_printed_with_its_recipe(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("input: {paths: a.zip}\nmodel: {encoder: conv}\n", encoding="utf-8")
    done = vaeline("config", "--config", str(own), "--set", "model.dropout=0.1")
    tree = yaml.safe_load(done.stdout)
    assert done.returncode == 0
    assert (tree["recipe"], tree["trainer"]["batch_size"]) == ("conv_grey", 256)
    assert tree["model"]["dropout"] == 0.1
    own.write_text(done.stdout, encoding="utf-8")
    assert json.loads(vaeline("config", "--config", str(own), "--json").stdout) == tree


def test_doctor_finds_what_the_tests_run_on() -> None:
    done = vaeline("doctor", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["healthy"]
    assert result["findings"]["tensorflow"]["found"].startswith("2.")
    assert result["findings"]["tfx"]["found"].startswith("1.")
    assert "vaeline doctor" in done.stderr


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    done = vaeline("run", "--config", "digits", "--root", str(tmp_path))
    assert_refused(done, "archives/digits.zip", "no such file")


def test_an_empty_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    path = str(tmp_path / "empty.zip")
    done = vaeline(
        "run", "--config", "digits", "--root", str(tmp_path), "--set", f"input.paths={path}"
    )
    assert_refused(done, "empty.zip", "no images")


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    path = str(tmp_path / "pictures")
    done = vaeline(
        "run", "--config", "digits", "--root", str(tmp_path), "--set", f"input.paths={path}"
    )
    assert_refused(done, "pictures", "no images")


def test_missing_weights_of_a_backbone_are_named_before_anything_is_written(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    sizes = [f"image.{key}={value}" for key, value in (("height", 32), ("width", 32))]
    values = [f"input.paths={tmp_path}", *sizes, "model.encoder=backbone",
              "model.backbone.weights=gone.weights.h5"]  # fmt: skip
    overrides = [part for value in values for part in ("--set", value)]
    done = vaeline("run", "--config", "digits", "--root", str(tmp_path / "root"), *overrides)
    assert_refused(done, "model.backbone.weights: gone.weights.h5 does not exist")
    assert not (tmp_path / "root").exists()


def test_a_typo_in_the_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("input: {paths: a.zip}\ntrainer: {epoch: 3}\n")
    done = vaeline("run", "--config", str(tmp_path / "my.yaml"), "--root", str(tmp_path / "root"))
    assert_refused(done, "my.yaml: trainer.epoch: unknown key; did you mean epochs?")
    done = vaeline("config", "--config", "digits", "--set", "limits.max_pixels=9")
    assert_refused(done, "limits: unknown key; did you mean input.limits?")


def test_a_folder_without_anything_to_report_on_is_named(tmp_path: Path) -> None:
    done = vaeline("report", str(tmp_path), "--logs", str(tmp_path))
    assert_refused(done, str(tmp_path), "metadata.sqlite", "_manifest.json")


def test_samples_of_no_model_are_refused(tmp_path: Path) -> None:
    done = vaeline(
        "sample", str(tmp_path), "--output", str(tmp_path / "a.png"), "--logs", str(tmp_path)
    )
    assert_refused(done, str(tmp_path), "no saved_model.pb")


def test_errors_come_as_json_too(tmp_path: Path) -> None:
    done = vaeline("run", "--config", "nowhere", "--root", str(tmp_path), "--json")
    assert done.returncode == 1
    assert "nowhere: no such file" in json.loads(done.stdout)["error"]


@pytest.fixture
def digits_zip(tmp_path: Path) -> Path:
    from pipeline.digits import write_digits

    return write_digits(tmp_path / "archives").labelled


def test_a_file_as_root_is_named(tmp_path: Path, digits_zip: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    done = vaeline(
        "run", "--config", "digits", "--root", str(blocked), "--set", f"input.paths={digits_zip}"
    )
    assert done.returncode == 2
    assert done.stderr.endswith(f"'--root': {blocked}: is a file; give a folder\n")


@pytest.mark.skipif(not os.path.ismount("/sys"), reason="there is no sysfs, which none may write")
def test_a_read_only_root_is_named(digits_zip: Path) -> None:
    done = vaeline(
        "run", "--config", "digits", "--root", "/sys/vaeline", "--set", f"input.paths={digits_zip}"
    )
    assert_refused(done, "/sys/vaeline", "--root")


def test_a_root_that_reads_as_a_pattern_is_refused(tmp_path: Path) -> None:
    from pipeline.local_runner import RootError, prepare_root

    with pytest.raises(RootError, match=r"runs \[1\]: Beam and TensorFlow take"):
        prepare_root(tmp_path / "runs [1]")
    assert not list(tmp_path.iterdir())


def test_a_machine_without_semaphores_is_refused_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.local_runner import RootError, prepare_root

    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("multiprocessing.Lock", refuse)
    with pytest.raises(RootError, match=r"^/dev/shm: Permission denied; .* mount a tmpfs"):
        prepare_root(tmp_path)


def test_a_full_root_is_named(tmp_path: Path, digits_zip: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        done = vaeline(
            "run", "--config", "digits", "--root", str(small), "--set", f"input.paths={digits_zip}"
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert_refused(done, str(small), "MiB are free")


def test_a_model_that_is_none_is_named(tmp_path: Path, digits_zip: Path) -> None:
    done = vaeline(
        "classify", str(digits_zip), "--model", str(tmp_path), "--output", str(tmp_path / "out"),
        "--logs", str(tmp_path),
    )  # fmt: skip
    assert_refused(done, str(tmp_path), "saved_model.pb")


def test_a_runner_that_cannot_be_used_is_named(tmp_path: Path, digits_zip: Path) -> None:
    from components.serving_check.server import free_port
    from tests.components.bulk_inference.model_fixture import export_model

    model = export_model(tmp_path / "model")
    address = f"localhost:{free_port()}"
    done = vaeline(
        "classify", str(digits_zip), "--model", str(model), "--output", str(tmp_path / "out"),
        "--logs", str(tmp_path), "--runner", "prism", "--master", address,
    )  # fmt: skip
    assert_refused(done, f"prism does not answer at {address}")


def test_every_runner_can_be_named() -> None:
    from components.bulk_inference.config import EngineConfig
    from pipeline.cli.bulk import classify

    (option,) = (each for each in classify.params if each.name == "runner")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == get_args(EngineConfig.model_fields["runner"].annotation)


@pytest.mark.parametrize(
    ("root", "message"),
    [("", "the name is empty"), ("~/runs", "write the whole path"), (__file__, "is a file")],
)
def test_a_root_that_is_surely_not_meant_is_refused(root: str, message: str) -> None:
    from pipeline.cli.command import root_type

    with pytest.raises(click.BadParameter, match=message):
        root_type.convert(root, None, None)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    for command in (["list"], ["rollback"], ["prune", "--keep", "1"]):
        done = vaeline("models", command[0], str(tmp_path), *command[1:])
        assert_refused(done, str(tmp_path), "there is no pushed model")


def test_the_root_of_a_pipeline_is_told_from_its_models(tmp_path: Path) -> None:
    from components.model_push.management import find_version, open_store, served_version
    from tests.components.test_model_push import push
    from trainer.errors import InputError

    number = push(open_store(str(tmp_path / "pushed")), tmp_path, "1")
    root = open_store(str(tmp_path))
    where = f"{tmp_path}: .* in {tmp_path}/pushed; give that folder"
    for wrong in (lambda: served_version(root), lambda: find_version(root, str(number)),
                  lambda: find_version(root, "champion")):  # fmt: skip
        with pytest.raises(InputError, match=where):
            wrong()


def test_models_are_listed_rolled_back_and_pruned(tmp_path: Path) -> None:
    from components.model_push.management import open_store
    from tests.components.test_model_push import push

    store = open_store(str(tmp_path / "pushed"))
    first, second = push(store, tmp_path, "1"), push(store, tmp_path, "2")
    listed = vaeline("models", "list", store.address)
    assert listed.returncode == 0, listed.stderr
    for part in (str(first), str(second), "ada@", "digits.zip", "served"):
        assert part in listed.stdout
    back = json.loads(vaeline("models", "rollback", store.address, "--json").stdout)
    assert (back["copy_of"], back["rolled_back_from"]) == (first, second)
    again = vaeline("models", "rollback", store.address)
    assert_refused(again, "no other model was served before")
    dry = json.loads(vaeline("models", "prune", store.address, "--keep", "1", "--json").stdout)
    assert dry["would_remove"] == [first, second]
    assert len(store.versions()) == 3
    done = vaeline("models", "prune", store.address, "--keep", "1", "--yes", "--json")
    assert json.loads(done.stdout)["removed"] == [first, second]
    listed = json.loads(vaeline("models", "list", store.address, "--json").stdout)
    assert [version["version"] for version in listed["versions"]] == [back["version"]]
    assert listed["served"] == listed["latest"] == back["version"]


def test_versions_get_aliases(tmp_path: Path) -> None:
    from components.model_push.management import open_store
    from tests.components.test_model_push import push

    store = open_store(str(tmp_path / "pushed"))
    first, second = push(store, tmp_path, "1"), push(store, tmp_path, "2")
    done = vaeline("models", "alias", store.address, "champion", str(first), "--user", "grace")
    assert done.returncode == 0, done.stderr
    assert f"@champion is version {first}" in done.stdout
    moved = json.loads(
        vaeline("models", "alias", store.address, "champion", "latest", "--json").stdout
    )
    assert (moved["version"], moved["replaced"]) == (second, first)
    vaeline("models", "alias", store.address, "fallback", str(first))
    listed = vaeline("models", "list", store.address)
    assert "champion, served" in listed.stdout
    dry = vaeline("models", "prune", store.address, "--keep", "1", "--json")
    assert json.loads(dry.stdout)["would_remove"] == []
    assert json.loads(dry.stdout)["kept"] == {str(first): ["fallback"]}
    text = vaeline("models", "serving-config", store.address, "--name", "digits").stdout
    assert '"fallback"' in text
    file = str(tmp_path / "models.config")
    assert vaeline("models", "serving-config", store.address, "--output", file).returncode == 0
    assert '"fallback"' in Path(file).read_text(encoding="utf-8")
    back = vaeline("models", "rollback", store.address, "--to", "fallback", "--json")
    assert json.loads(back.stdout)["copy_of"] == first
    assert vaeline("models", "alias", store.address, "fallback", "--remove").returncode == 0
    assert list(store.aliases()) == ["champion"]
    for wrong in (["champion"], ["champion", str(first), "--remove"]):
        done = vaeline("models", "alias", store.address, *wrong)
        assert_refused(done, "champion: give either VERSION or --remove")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert_refused(
        vaeline("predict", str(tmp_path / "photo.png"), "--model", f"{store.address}@nobody"),
        "no alias 'nobody', there is champion",
    )
