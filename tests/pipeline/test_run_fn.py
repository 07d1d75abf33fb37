"""The Trainer's entry under kills, and as one of several workers."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from components.serving_check.server import free_port
from pipeline.run_fn import LABELLED_ONLY, _golden_files, read_base_model, run_fn
from pipeline.training import prepare
from pipeline.training_folder import remove_training, training_folder
from tests.forked import Forked
from tests.pipeline import small_training
from tests.pipeline.small_training import step_of
from tests.trainer import tiny
from tests.trainer.test_model_card import unknown_keys
from trainer.data.input_pipeline import ImageSet
from trainer.errors import InputError
from trainer.model_card import parse_card
from trainer.optimization.checkpoints import Checkpoints
from trainer.optimization.preemption import PREEMPTED_EXIT_CODE


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(start(inputs, out))
    return out


def start(inputs: Path, out: Path, cluster: dict | None = None, wait_at: int = 0) -> Forked:
    out.mkdir(exist_ok=True)
    return Forked(
        "tests.pipeline.small_training",
        str(inputs),
        str(out),
        output=out / f"printed-{len(list(out.glob('printed-*')))}.txt",
        environment={
            "TF_CONFIG": json.dumps(cluster) if cluster else None,
            "WAIT_AT": str(wait_at),
        },
    )


def finish(process: Forked) -> list[int]:
    """Waits for the end; the steps that it reported."""
    assert process.wait() == 0, process.text[-2000:]
    return [step for line in process.text.splitlines() if (step := step_of(line)) is not None]


def stop_at(step: int, number: int, inputs: Path, out: Path) -> int:
    """Starts a training and sends a signal when it reports the step; the exit code."""
    process = start(inputs, out, wait_at=step)
    for line in process.lines():
        if (step_of(line) or 0) >= step:
            process.send(number)
            break
    return process.wait()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.slow
def test_a_new_execution_goes_on_where_a_stopped_one_was(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    assert stop_at(9, signal.SIGTERM, inputs, tmp_path / "1") == PREEMPTED_EXIT_CODE
    assert stop_at(21, signal.SIGKILL, inputs, tmp_path / "2") == -signal.SIGKILL
    (folder,) = (inputs / "training").iterdir()
    assert names(folder / "checkpoints")

    # All in processes of their own: with as many threads, so with equal bits.
    assert finish(start(inputs, tmp_path / "3"))[0] >= 21
    digests = [small_training.exported_digests(out) for out in (tmp_path / "3", undisturbed)]
    assert digests[0] == digests[1]
    histories = [
        json.loads((out / "model_run" / "history.json").read_text())
        for out in (tmp_path / "3", undisturbed)
    ]
    assert histories[0] == histories[1]
    assert names(inputs / "training") == set()


def test_a_training_killed_while_it_is_removed_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> list[Checkpoints]:
        stages = (tmp_path / "checkpoints", tmp_path / "checkpoints" / "teacher-1")
        return [Checkpoints(str(folder), identity="same", keep=2) for folder in stages]

    for checkpoints in folders():
        checkpoints.save_best([np.zeros(3)])
        for step in (1, 2):
            checkpoints.save(step, [np.zeros(3)], {})
    removed: list[str] = []

    def kill(path: str) -> None:
        if Path(path).is_dir():
            raise KeyboardInterrupt
        removed.append(path)
        Path(path).unlink()

    monkeypatch.setattr("trainer.storage.files.remove", kill)
    with pytest.raises(KeyboardInterrupt):
        remove_training(str(tmp_path))
    assert [checkpoints.restore() for checkpoints in folders()] == [None, None]
    assert [Path(path).parent.name for path in removed] == ["checkpoints"] * 2 + ["teacher-1"] * 2


def test_other_options_images_or_code_are_another_training(inputs: Path, tmp_path: Path) -> None:
    given = small_training.arguments(inputs, tmp_path, small_training.options())
    training = prepare(given, scratch=str(tmp_path))
    images = training.data["train"].images.copy()
    images[7, 3, 3] ^= 1
    changed = {**training.data, "train": ImageSet(images, training.data["train"].labels)}
    variants = [
        ("code", training),
        ("other code", training),
        ("code", replace(training, options=small_training.options(seed=7))),
        ("code", replace(training, data=changed)),
    ]
    identities = [
        {"code": code, **variant.identity()} for code, variant in [*variants, variants[0]]
    ]
    identities += [{"code": "code", **training.identity(base)} for base in ("one", "two")]
    weights = tmp_path / "a.weights.h5"
    model = tiny.model_config(encoder="backbone", backbone={"weights": str(weights)})
    for content in (b"one", b"two"):
        weights.write_bytes(b"\x89HDF" + content)
        identities.append({"code": "code", **replace(training, model=model).identity()})
    folders = {training_folder("root", "trainer", identity) for identity in identities}
    assert len(folders) == len(variants) + 4


def test_a_training_starts_from_the_model_that_the_graph_names(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    base = undisturbed / "model" / "Format-Serving"
    given = small_training.arguments(
        inputs, tmp_path, small_training.options(epochs=0.3), base_model=str(base)
    )
    with pytest.MonkeyPatch.context() as patch:
        small_training.export_little(patch)
        patch.setattr("pipeline.run_fn.draw_training", lambda *given, **named: None)
        run_fn(given)
    content = (tmp_path / "model/Format-Serving/assets.extra/model.json").read_text()
    assert unknown_keys(parse_card(content)) == []
    card = json.loads(content)
    assert card["base"]["model"] == small_training.exported_digests(undisturbed)["model"]
    assert card["base"]["line"] == f"warm start: 12 of 12 weights are those of {base}"
    (record,) = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert record["train"]["accuracy"] > 0.8, "one that starts anew knows a third"
    # On a cluster there is an artifact before the first push, too.
    given.base_model = str(tmp_path / "empty" / "Format-Serving")
    assert read_base_model(given) is None


def test_what_a_training_says_of_itself_is_in_the_model_run(undisturbed: Path) -> None:
    run = undisturbed / "model_run"
    assert names(run) >= {"history.json", "arithmetic.json", "pictures"}
    assert names(run / "pictures") == {"reconstructions.png", "samples.png", "latent_map.png"}


@pytest.mark.slow
def test_a_comparison_takes_unlabelled_images(inputs: Path, tmp_path: Path) -> None:
    arguments = small_training.arguments(inputs, tmp_path, small_training.options())
    arguments.custom_config[LABELLED_ONLY] = True
    with pytest.raises(InputError, match="there are no unlabelled images to compare with"):
        run_fn(arguments)


def test_a_validation_split_without_images_leaves_the_examples_to_train(
    inputs: Path, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"Split-{split}").mkdir()
    (tmp_path / "Split-validation" / "data.tfrecord").touch()
    (source,) = (inputs / "examples" / "Split-train").iterdir()
    shutil.copy(source, tmp_path / "Split-train")
    files = SimpleNamespace(train_files=[str(tmp_path / "Split-train" / "*")])
    assert next(_golden_files(files))


def test_of_two_workers_the_chief_writes_what_one_would(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    hosts = {role: [f"localhost:{free_port()}"] for role in ("chief", "worker")}
    # As Vertex writes it: more than the cluster and the task.
    workers = [
        start(
            inputs,
            tmp_path,
            {
                "cluster": hosts,
                "task": {"type": role, "index": 0, "trial": ""},
                "environment": "cloud",
                "job": {"python_module": ""},
            },
        )
        for role in hosts
    ]
    for worker in workers:
        finish(worker)
    alone = json.loads((undisturbed / "model_run" / "history.json").read_text())
    together = json.loads((tmp_path / "model_run" / "history.json").read_text())
    for one, two in zip(alone, together, strict=True):
        assert two["train"] == pytest.approx(one["train"], rel=1e-4, abs=1e-4)
    assert names(tmp_path / "model_run") >= {"history.json", "pictures"}
    assert "checkpoints" not in names(tmp_path / "model_run")
    assert small_training.exported_digests(tmp_path)["code"] == "code"
    assert names(inputs / "training") == set()
