"""Declares the ModelGate component, which blesses a model or explains the refusal.

The graph places it after TFX's Evaluator, which only measures, because its thresholds do not
support intervals. After a change of a bound the gate runs again without a new evaluation.
"""

from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.model_gate import executor
from components.model_gate.config import EvaluationConfig


class ModelGateSpec(ComponentSpec):
    """Declares the inputs, outputs and parameters of ModelGate."""

    PARAMETERS = {
        executor.BOUNDS: ExecutionParameter(type=str),
        executor.CODE_DIGEST: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        executor.EVALUATION: ChannelParameter(type=standard_artifacts.ModelEvaluation),
        executor.MODEL: ChannelParameter(type=standard_artifacts.Model),
        executor.BASELINE_MODEL: ChannelParameter(type=standard_artifacts.Model, optional=True),
        executor.LABELLED_ONLY: ChannelParameter(
            type=standard_artifacts.ModelEvaluation, optional=True
        ),
    }
    OUTPUTS = {executor.BLESSING: ChannelParameter(type=standard_artifacts.ModelBlessing)}


class ModelGate(base_component.BaseComponent):
    """Blesses or refuses a model by the metrics that the Evaluator computed.

    Args:
        evaluation: Output of TFX's Evaluator, run with `pipeline.evaluation.create_eval_config`.
        model: The candidate.
        bounds: The bounds that it must meet, as a model or a mapping.
        baseline_model: The model it was compared with; resolves to nothing for a first model.
        labelled_only: Output of the Evaluator that compares the candidate with a model trained on
            the labelled images alone; None without that comparison.
        code_digest: Digest of the code, so that a code change misses the cache.
    """

    SPEC_CLASS = ModelGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        evaluation: types.BaseChannel,
        model: types.BaseChannel,
        bounds: EvaluationConfig | Mapping[str, Any],
        baseline_model: types.BaseChannel | None = None,
        labelled_only: types.BaseChannel | None = None,
        code_digest: str | None = None,
    ) -> None:
        config = EvaluationConfig.model_validate(bounds)
        spec = ModelGateSpec(
            **{
                executor.EVALUATION: evaluation,
                executor.MODEL: model,
                executor.BASELINE_MODEL: baseline_model,
                executor.LABELLED_ONLY: labelled_only,
                executor.BOUNDS: config.model_dump_json(),
                executor.CODE_DIGEST: code_digest,
                executor.BLESSING: types.Channel(type=standard_artifacts.ModelBlessing),
            }
        )
        super().__init__(spec=spec)
