"""Implements ModelGate's executor: reads TFMA's output, applies the rules, writes the blessing.

TFX instantiates it; the rules do not depend on TFX.
"""

import posixpath
from typing import Any, Final

import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.model_gate.config import EvaluationConfig
from components.model_gate.measures import read_measures
from components.model_gate.rules import judge_model
from components.model_gate.unlabelled_gain import UnlabelledGain, unlabelled_gain
from components.model_gate.verdict import VERDICT_JSON, VERDICT_TEXT
from trainer.model_card import EXPORTED_CARD, CardError, ModelCard, parse_card
from trainer.storage import files

EVALUATION: Final = "evaluation"
MODEL: Final = "model"
BASELINE_MODEL: Final = "baseline_model"
LABELLED_ONLY: Final = "labelled_only"
BLESSING: Final = "blessing"

BOUNDS: Final = "bounds"
CODE_DIGEST: Final = "code_digest"


class Executor(base_executor.BaseExecutor):
    """Judges one model."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the blessing.

        Args:
            input_dict: `evaluation`, `model`, `baseline_model` if there is one, and
                `labelled_only` if a model was trained without the unlabelled images.
            output_dict: `blessing`: receives the file and the properties that TFX's Evaluator
                writes, `verdict.json` and `verdict.txt`.
            exec_properties: `bounds` (JSON).

        Raises:
            EvaluationError: if the evaluation has no images.
        """
        model = artifact_utils.get_single_instance(input_dict[MODEL])
        blessing = artifact_utils.get_single_instance(output_dict[BLESSING])
        metrics = tfma.load_metrics(artifact_utils.get_single_uri(input_dict[EVALUATION]))
        baselines = input_dict.get(BASELINE_MODEL) or []
        known = [
            name for baseline in baselines if _has_card(baseline) for name in _classes(baseline)
        ]
        bounds = EvaluationConfig.model_validate_json(exec_properties[BOUNDS])
        verdict = judge_model(
            read_measures(metrics, _classes(model), known),
            bounds,
            gain=_unlabelled_gain(input_dict.get(LABELLED_ONLY), model, bounds),
        )
        self._write(blessing, VERDICT_JSON, verdict.to_json())
        self._write(blessing, VERDICT_TEXT, verdict.to_text())

        # TFX's Pusher and the next run's search for a baseline read this file.
        self._write(
            blessing,
            constants.BLESSED_FILE_NAME if verdict.blessed else constants.NOT_BLESSED_FILE_NAME,
            "",
        )
        blessing.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(verdict.blessed)
        )
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
        )
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        for baseline in baselines:
            blessing.set_string_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri
            )
            blessing.set_int_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id
            )

    def _write(self, artifact: types.Artifact, name: str, text: str) -> None:
        files.write_bytes(posixpath.join(artifact.uri, name), text.encode())


def _unlabelled_gain(
    evaluations: list[types.Artifact] | None, model: types.Artifact, bounds: EvaluationConfig
) -> UnlabelledGain | None:
    """Reads the comparison with the model trained on labelled images alone; None without one."""
    if not evaluations:
        return None
    metrics = tfma.load_metrics(artifact_utils.get_single_uri(evaluations))
    paired = read_measures(metrics, _classes(model)).overall.paired
    return unlabelled_gain(paired, _card(model).images, bounds.confidence)


def _has_card(model: types.Artifact) -> bool:
    """Returns whether the model has a card; without it, nothing is known of its classes."""
    return files.exists(_card_path(model))


def _card_path(model: types.Artifact) -> str:
    return posixpath.join(path_utils.serving_model_path(model.uri), EXPORTED_CARD)


def _classes(model: types.Artifact) -> list[str]:
    return list(_card(model).classes)


def _card(model: types.Artifact) -> ModelCard:
    path = _card_path(model)
    try:
        return parse_card(files.read_bytes(path)).require("classes")
    except CardError as error:
        raise CardError(f"{path}: {error}; train the model again") from error
