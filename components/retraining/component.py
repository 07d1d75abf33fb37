"""The first and the last step of a run on a cluster: is there a reason, and what came of it.

A scheduled run starts every day. InputState, which is never cached, looks which images are there;
everything else stands under the condition that it gave a reason. RunRecord remembers the verdict,
so that the same images are not trained on again. `pipeline/orchestration/compiler.py` adds both.
"""

import posixpath
import time
from typing import Any, TypedDict

import tensorflow as tf
from tfx import v1 as tfx
from tfx.components.example_gen import utils

from components.image_sources.config import InputConfig
from components.retraining.config import RetrainConfig
from components.retraining.history import from_json, to_json
from components.retraining.reasons import Attempt, Drift, decide, look, read_drift

_DRIFT_FILE = "drift.json"


class InputStateOutputs(TypedDict):
    """What InputState gives: exec properties of ImageExampleGen, and the condition of the rest."""

    input_config: str
    input_fingerprint: str
    span: int
    reason: str
    explanation: str


class RunRecordOutputs(TypedDict):
    """What RunRecord gives: where the record lies."""

    record: str


@tfx.dsl.components.component
def InputState(  # noqa: N802 (a component's name is the class that TFX makes of it)
    patterns: tfx.dsl.components.Parameter[str],
    rules: tfx.dsl.components.Parameter[str],
    history: tfx.dsl.components.Parameter[str],
    force: tfx.dsl.components.Parameter[int] = 0,
) -> InputStateOutputs:
    """Looks which images are there, and whether to train on them.

    Args:
        patterns: JSON of the input section, spans as patterns.
        rules: JSON of the `retrain` section.
        history: Path of the record of earlier trainings; it need not exist.
        force: 1: there is a reason, whatever is known.

    Returns:
        The input section with its spans resolved, its fingerprint and latest span; `reason` is
        empty where there is none to train, and `explanation` says why (not).

    Raises:
        InputError: A path does not exist or no span matches.
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
    """Remembers that these images were trained on, and the verdict.

    Args:
        examples: The images.
        blessing: The gate's verdict.
        pushed_model: Only so that this step comes last.
        history: Path of the record; made when missing.
        infra_blessing: Verdict of the check of the export, where there is one: what it refused
            was refused.

    Returns:
        `record`, its path.
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
    tf.io.gfile.makedirs(posixpath.dirname(history))
    temporary = f"{history}.tmp"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(to_json(attempts))
    tf.io.gfile.rename(temporary, history, overwrite=True)
    return {"record": history}


def find_drift(path: str | None) -> Drift | None:
    """Reads a bulk job's drift report; None where there is none (yet).

    Args:
        path: drift.json, or the job's output folder; local or gs://.
    """
    if path is None:
        return None
    file = path if path.endswith(".json") else posixpath.join(path, _DRIFT_FILE)
    if not tf.io.gfile.exists(file):
        return None
    with tf.io.gfile.GFile(file) as content:
        reported = tf.io.gfile.stat(file).mtime_nsec / 1e9
        return read_drift(file, content.read(), reported)


def _is_there(artifact: Any, name: str) -> bool:
    return bool(tf.io.gfile.exists(posixpath.join(artifact.uri, name)))


def _read_history(path: str) -> list[Attempt]:
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return from_json(path, file.read())
