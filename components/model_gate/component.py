"""ModelGate, the component: blesses a model, or says why not.

The graph puts it after TFX's Evaluator, which measures and judges nothing: its thresholds know no
intervals. A changed bound is judged anew without measuring anew.
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
    """What ModelGate takes and gives."""

    PARAMETERS = {
        executor.BOUNDS: ExecutionParameter(type=str),
        executor.CODE_DIGEST: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        executor.EVALUATION: ChannelParameter(type=standard_artifacts.ModelEvaluation),
        executor.MODEL: ChannelParameter(type=standard_artifacts.Model),
        executor.BASELINE_MODEL: ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {executor.BLESSING: ChannelParameter(type=standard_artifacts.ModelBlessing)}


class ModelGate(base_component.BaseComponent):
    """Judges what the Evaluator measured.

    Args:
        evaluation: Output of TFX's Evaluator, run with `pipeline.evaluation.create_eval_config`.
        model: The candidate.
        bounds: What it must reach, or what makes that.
        baseline_model: What it was compared with; resolves to nothing for a first model.
        code_digest: Digest of the code: another digest, another cache entry.
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
        code_digest: str | None = None,
    ) -> None:
        config = EvaluationConfig.model_validate(bounds)
        spec = ModelGateSpec(
            **{
                executor.EVALUATION: evaluation,
                executor.MODEL: model,
                executor.BASELINE_MODEL: baseline_model,
                executor.BOUNDS: config.model_dump_json(),
                executor.CODE_DIGEST: code_digest,
                executor.BLESSING: types.Channel(type=standard_artifacts.ModelBlessing),
            }
        )
        super().__init__(spec=spec)
