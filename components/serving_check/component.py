"""Declares the ServingCheck component, which blesses a model that can be served.

The graph places it after the Trainer; its InfraBlessing is an input of the Pusher. Unlike TFX's
InfraValidator it needs no container, and it compares numerical results.
"""

from typing import Final

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.serving_check import executor
from components.serving_check.config import ServingCheckConfig

BLESSING: Final = executor.BLESSING


class ServingCheckSpec(ComponentSpec):
    """Declares the inputs, outputs and parameters of ServingCheck."""

    PARAMETERS = {
        executor.CHECK_CONFIG: ExecutionParameter(type=str),
        executor.CODE_DIGEST: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {executor.MODEL: ChannelParameter(type=standard_artifacts.Model)}
    OUTPUTS = {executor.BLESSING: ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ServingCheck(base_component.BaseComponent):
    """Validates an exported model against its golden set.

    Args:
        model: Model of the Trainer.
        check_config: The section `serving_check`.
        code_digest: Digest of the code, so that a code change misses the cache.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        check_config: ServingCheckConfig,
        *,
        code_digest: str | None = None,
    ) -> None:
        spec = ServingCheckSpec(
            **{
                executor.MODEL: model,
                executor.CHECK_CONFIG: check_config.model_dump_json(),
                executor.CODE_DIGEST: code_digest,
                executor.BLESSING: types.Channel(type=standard_artifacts.InfraBlessing),
            }
        )
        super().__init__(spec=spec)
