"""The steps that only a cluster has: its images, its baseline, its memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.image_sources.config import InputConfig
from components.retraining.config import RetrainConfig
from components.retraining.reasons import look


def write_model(folder: Path, digest: str) -> Path:
    (folder / "assets.extra").mkdir(parents=True)
    card = {"digests": {"model": digest}}
    (folder / "assets.extra" / "model.json").write_text(json.dumps(card))
    (folder / "saved_model.pb").write_bytes(digest.encode())
    return folder


def artifact(kind: str, uri: Path) -> Any:
    from tfx.types import standard_artifacts

    made = getattr(standard_artifacts, kind)()
    made.uri = str(uri)
    uri.parent.mkdir(parents=True, exist_ok=True)
    return made


def run(component: str, inputs: dict[str, Any], outputs: dict[str, Any], **settings: Any) -> None:
    """Runs the executor of a component made of a function."""
    from tfx.dsl.components.base import base_executor
    from tfx.utils import import_utils

    executor = import_utils.import_class_by_path(f"{component}_Executor")
    executor(base_executor.BaseExecutor.Context()).Do(
        {key: [value] for key, value in inputs.items()},
        {key: [value] for key, value in outputs.items()},
        settings,
    )


@pytest.mark.parametrize(
    ("pushed", "expected"),
    [({}, ""), ({"7": "new"}, ""), ({"7": "old"}, "7"), ({"9": "old", "10": "new"}, "9"),
     ({"9": "a", "10": "b", "tmp": "c"}, "10")],
)  # fmt: skip
def test_the_baseline_is_the_latest_pushed_model_other_than_the_candidate(
    tmp_path: Path, pushed: dict[str, str], expected: str
) -> None:
    for version, digest in pushed.items():
        write_model(tmp_path / "pushed" / version, digest)
    write_model(tmp_path / "candidate" / "Format-Serving", "new")
    baseline = artifact("Model", tmp_path / "baseline")
    version = artifact("String", tmp_path / "version")
    run(
        "components.pushed_baseline.component.PushedBaseline",
        {"candidate": artifact("Model", tmp_path / "candidate")},
        {"model": baseline, "version": version},
        directory=str(tmp_path / "pushed"),
    )
    assert version.read() == expected
    copied = tmp_path / "baseline" / "Format-Serving" / "saved_model.pb"
    assert copied.exists() == bool(expected)
    if expected:
        assert copied.read_bytes().decode() == pushed[expected]


@pytest.mark.parametrize(
    ("pushed", "expected"),
    [({}, ""), ({"7": "own"}, ""), ({"7": "mon", "8": "own"}, "7"), ({"9": "mon", "10": ""}, "10")],
)
def test_a_training_starts_from_the_latest_pushed_model_of_other_images(
    tmp_path: Path, pushed: dict[str, str], expected: str
) -> None:
    for version, fingerprint in pushed.items():
        folder = write_model(tmp_path / "pushed" / version, version)
        if fingerprint:
            record = json.dumps({"fingerprint": fingerprint})
            (folder / "assets.extra" / "push.json").write_text(record)
    base, version = artifact("Model", tmp_path / "base"), artifact("String", tmp_path / "version")
    run(
        "components.pushed_baseline.component.PushedBase",
        {},
        {"model": base, "version": version},
        directory=str(tmp_path / "pushed"),
        input_fingerprint="own",
    )
    assert version.read() == expected
    assert (tmp_path / "base" / "Format-Serving" / "saved_model.pb").exists() == bool(expected)


@pytest.mark.parametrize("is_empty", [True, False])
def test_an_empty_baseline_is_none_to_the_evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool
) -> None:
    from tfx.components.evaluator import executor

    from components.pushed_baseline.executor import BaselineEvaluator

    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        executor.Executor, "Do", lambda self, inputs, outputs, settings: seen.update(inputs)
    )
    if not is_empty:
        write_model(tmp_path / "Format-Serving", "old")
    inputs = {"baseline_model": [artifact("Model", tmp_path)], "model": ["m"]}
    BaselineEvaluator().Do(inputs, {}, {})
    assert ("baseline_model" in seen) is not is_empty
    assert seen["model"] == ["m"]


@pytest.mark.parametrize(
    ("blessed", "served"), [(True, None), (True, True), (True, False), (False, True)]
)
def test_what_was_judged_is_remembered_and_not_done_again(
    tmp_path: Path, blessed: bool, served: bool | None
) -> None:
    (tmp_path / "archive.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    config = InputConfig.model_validate({"paths": str(tmp_path / "archive.zip")})
    history = str(tmp_path / "retraining" / "flowers.json")

    def state() -> dict[str, Any]:
        outputs = {
            name: artifact(kind, tmp_path / "state" / name)
            for name, kind in {
                "input_config": "String", "input_fingerprint": "String", "span": "Integer",
                "reason": "String", "explanation": "String",
            }.items()
        }  # fmt: skip
        run(
            "components.retraining.component.InputState", {}, outputs,
            patterns=config.model_dump_json(), rules=RetrainConfig().model_dump_json(),
            history=history, force=0,
        )  # fmt: skip
        return {name: made.read() for name, made in outputs.items()}

    first = state()
    assert first["reason"] == "there is no blessed model yet"
    assert first["input_fingerprint"] == look(config).fingerprint

    examples = artifact("Examples", tmp_path / "examples")
    examples.span = 3
    examples.set_string_custom_property("input_fingerprint", first["input_fingerprint"])
    blessing = tmp_path / "blessing"
    blessing.mkdir()
    (blessing / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    checked = {}
    if served is not None:
        infra = tmp_path / "infra_blessing"
        infra.mkdir()
        (infra / ("INFRA_BLESSED" if served else "INFRA_NOT_BLESSED")).touch()
        checked["infra_blessing"] = artifact("InfraBlessing", infra)
    run(
        "components.retraining.component.RunRecord",
        {
            "examples": examples,
            "blessing": artifact("ModelBlessing", blessing),
            "pushed_model": artifact("PushedModel", tmp_path / "pushed_model"),
            **checked,
        },
        {"record": artifact("String", tmp_path / "record")},
        history=history,
    )
    second = state()
    assert second["reason"] == ""
    verdict = "blessed" if blessed and served is not False else "refused"
    assert f"was {verdict}" in second["explanation"]
