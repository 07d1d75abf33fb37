"""Declares the BulkInference component, which annotates images inside a pipeline.

It runs the job in the DAG, after the Evaluator; `vaeline classify` runs the same job without TFX.
"""

from collections.abc import Mapping
from typing import Any, Final

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.bulk_inference import driver, executor
from components.bulk_inference.config import BulkConfig

MODEL: Final = executor.MODEL
MODEL_BLESSING: Final = executor.MODEL_BLESSING
INFRA_BLESSING: Final = executor.INFRA_BLESSING
EXAMPLES: Final = executor.EXAMPLES
ANNOTATIONS: Final = executor.ANNOTATIONS


class BulkInferenceSpec(ComponentSpec):
    """Declares the inputs, outputs and parameters of BulkInference."""

    PARAMETERS = {
        executor.BULK_CONFIG: ExecutionParameter(type=str),
        executor.SPLIT: ExecutionParameter(type=str, optional=True),
        executor.CODE_DIGEST: ExecutionParameter(type=str, optional=True),
        executor.INPUT_FINGERPRINT: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        MODEL: ChannelParameter(type=standard_artifacts.Model),
        MODEL_BLESSING: ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
        INFRA_BLESSING: ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        EXAMPLES: ChannelParameter(type=standard_artifacts.Examples, optional=True),
    }
    OUTPUTS = {ANNOTATIONS: ChannelParameter(type=standard_artifacts.InferenceResult)}


class BulkInference(base_component.BaseComponent):
    """Annotates a split of the pipeline's own examples, or archives of the configuration.

    It fails on an unblessed model, which TFX's BulkInferrer skips silently.

    Args:
        model: Model of the Trainer.
        bulk_config: The job, as a model or a mapping. The component sets `model` and `output`,
            and also `input` if `examples` is given.
        model_blessing: Blessing of the Evaluator; without one the model is used unchecked.
        infra_blessing: Blessing of ServingCheck, or of TFX's InfraValidator.
        examples: Images of the pipeline; without them `bulk_config.input` names archives.
        split: The split of the examples to annotate.
        code_digest: Digest of the code, so that a code change misses the cache.
        input_fingerprint: Fingerprint of the archives that the configuration names, because TFX's
            cache does not see their content. The driver computes it on orchestrators that run one.
    """

    SPEC_CLASS = BulkInferenceSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        model: types.BaseChannel,
        bulk_config: BulkConfig | Mapping[str, Any],
        *,
        model_blessing: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        examples: types.BaseChannel | None = None,
        split: str | None = None,
        code_digest: str | None = None,
        input_fingerprint: str | None = None,
    ) -> None:
        config = BulkConfig.model_validate(bulk_config)
        if (config.input is None) == (examples is None):
            raise ValueError(
                "BulkInference takes its images either from `examples` or from the archives of"
                " `bulk_config.input`; give exactly one of them"
            )
        spec = BulkInferenceSpec(
            **{
                MODEL: model,
                MODEL_BLESSING: model_blessing,
                INFRA_BLESSING: infra_blessing,
                EXAMPLES: examples,
                # `BulkJob` and the model decide about options that are not set.
                executor.BULK_CONFIG: config.model_dump_json(exclude_unset=True),
                executor.SPLIT: split,
                executor.CODE_DIGEST: code_digest,
                executor.INPUT_FINGERPRINT: input_fingerprint,
                ANNOTATIONS: types.Channel(type=standard_artifacts.InferenceResult),
            }
        )
        super().__init__(spec=spec)
