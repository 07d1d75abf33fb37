"""Declares the first and the last step of a run on a cluster: InputState and RunRecord.

A scheduled run starts every day. InputState, which is never cached, finds the available images;
all other steps run only if it returns a reason to retrain. RunRecord stores the outcome, so that
the same images are not trained on again. `pipeline/orchestration/compiler.py` adds both steps.
"""

import posixpath
import time
from typing import Any, TypedDict

from tfx.components.example_gen import utils

from components.image_sources.config import InputConfig
from components.retraining.config import RetrainConfig
from components.retraining.history import from_json, to_json
from components.retraining.reasons import Attempt, Drift, decide, look, read_drift
from components.tfx_api import tfx
from trainer.storage import files

_DRIFT_FILE = "drift.json"


class InputStateOutputs(TypedDict):
    """Declares InputState's outputs: properties of ImageExampleGen, and the run's condition."""

    input_config: str
    input_fingerprint: str
    span: int
    reason: str
    explanation: str


class RunRecordOutputs(TypedDict):
    """Declares RunRecord's output: the path of the record."""

    record: str


@tfx.dsl.components.component
def InputState(  # noqa: N802 (a component's name is the class that TFX makes of it)
    patterns: tfx.dsl.components.Parameter[str],
    rules: tfx.dsl.components.Parameter[str],
    history: tfx.dsl.components.Parameter[str],
    force: tfx.dsl.components.Parameter[int] = 0,
) -> InputStateOutputs:
    """Finds the available images and decides whether to train on them.

    Args:
        patterns: JSON of the input section, with spans as patterns.
        rules: JSON of the `retrain` section.
        history: Path of the record of earlier trainings; it need not exist.
        force: 1 to train in any case.

    Returns:
        The input section with spans resolved, its fingerprint and latest span; `reason` is empty
        if there is no reason to train, and `explanation` explains the decision.

    Raises:
        InputError: if a path does not exist or no span matches.
    """
    images = look(InputConfig.model_validate_json(patterns))
    config = RetrainConfig.model_validate_json(rules)
    decision = decide(
        images,
        _read_history(history),
        config,
        drift=find_drift(config.drift_report),
        now=time.time(),
        force=bool(force),
    )
    return {
        "input_config": images.input_config.model_dump_json(),
        "input_fingerprint": images.fingerprint,
        "span": images.span,
        "reason": decision.reason if decision.train else "",
        "explanation": decision.reason,
    }


@tfx.dsl.components.component
def RunRecord(  # noqa: N802 (as above)
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    blessing: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    pushed_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.PushedModel],
    history: tfx.dsl.components.Parameter[str],
    infra_blessing: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.InfraBlessing
    ] = None,
) -> RunRecordOutputs:
    """Records that these images were trained on, and whether the model was blessed.

    Args:
        examples: The images.
        blessing: The gate's verdict.
        pushed_model: Not read; makes this step run last.
        history: Path of the record, which is created when missing.
        infra_blessing: Verdict of the check of the export, if there is one; a model that it
            refused counts as refused.

    Returns:
        `record`, the path of the record.
    """
    attempts = _read_history(history)
    attempts.append(
        Attempt(
            run=posixpath.basename(posixpath.dirname(pushed_model.uri)),
            span=examples.span,
            fingerprint=examples.get_string_custom_property(utils.FINGERPRINT_PROPERTY_NAME),
            ended=time.time(),
            blessed=_is_there(blessing, "BLESSED")
            and (infra_blessing is None or _is_there(infra_blessing, "INFRA_BLESSED")),
        )
    )
    files.write_bytes(history, to_json(attempts).encode())
    return {"record": history}


def find_drift(path: str | None) -> Drift | None:
    """Reads a bulk job's drift report; returns None if there is none yet.

    Args:
        path: Path of drift.json, or the job's output folder; local or gs://.
    """
    if path is None:
        return None
    file = path if path.endswith(".json") else posixpath.join(path, _DRIFT_FILE)
    try:
        reported = files.stat(file).modified
        return read_drift(file, files.read_bytes(file).decode(), reported)
    except FileNotFoundError:
        return None


def _is_there(artifact: Any, name: str) -> bool:
    return files.exists(posixpath.join(artifact.uri, name))


def _read_history(path: str) -> list[Attempt]:
    try:
        return from_json(path, files.read_bytes(path).decode())
    except FileNotFoundError:
        return []
