"""Declares vaeline's Pusher, which publishes versions atomically, with a record of their origin.

It is the last step of the pipeline. `pipeline/graph.py` uses it in place of TFX's Pusher, which
copies file by file into the folder that TF Serving watches and gives two pushes in one second the
same number.
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.model_push import executor


class PusherSpec(ComponentSpec):
    """Declares the inputs, outputs and parameters of the Pusher."""

    PARAMETERS = {
        executor.DIRECTORY: ExecutionParameter(type=str),
        executor.USER: ExecutionParameter(type=str, optional=True),
        executor.GROUP: ExecutionParameter(type=str, optional=True),
        executor.CODE_DIGEST: ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        executor.MODEL: ChannelParameter(type=standard_artifacts.Model, optional=True),
        executor.MODEL_BLESSING: ChannelParameter(
            type=standard_artifacts.ModelBlessing, optional=True
        ),
        executor.INFRA_BLESSING: ChannelParameter(
            type=standard_artifacts.InfraBlessing, optional=True
        ),
        executor.EXAMPLES: ChannelParameter(type=standard_artifacts.Examples, optional=True),
        executor.EVALUATION: ChannelParameter(
            type=standard_artifacts.ModelEvaluation, optional=True
        ),
    }
    OUTPUTS = {executor.PUSHED_MODEL: ChannelParameter(type=standard_artifacts.PushedModel)}


class Pusher(base_component.BaseComponent):
    """Publishes a blessed model as the newest version of a folder or bucket.

    Inputs and outputs are those of TFX's Pusher; `pushed_model` has the same properties
    (`pushed`, `pushed_destination`, `pushed_version`).

    Args:
        directory: The folder, or address such as `gs://bucket/prefix`, that TF Serving watches.
        model: Model of the Trainer.
        model_blessing: Blessing of the Evaluator; if it is denied, nothing is pushed.
        infra_blessing: Blessing of a check that the model can be served; if it is denied, nothing
            is pushed. Without `model`, the model inside the blessing is pushed.
        examples: The images, whose fingerprint is recorded.
        evaluation: Output of the Evaluator, whose metrics are recorded.
        user: The user name to record; by default the account that runs the step.
        group: The group that can read the version in a folder, besides those who can read the
            folder.
        code_digest: Digest of the code, so that a code change misses the cache.
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        directory: str,
        *,
        model: types.BaseChannel | None = None,
        model_blessing: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        examples: types.BaseChannel | None = None,
        evaluation: types.BaseChannel | None = None,
        user: str | None = None,
        group: str | None = None,
        code_digest: str | None = None,
    ) -> None:
        if model is None and infra_blessing is None:
            raise ValueError("Pusher needs a `model`, or an `infra_blessing` that holds one")
        spec = PusherSpec(
            **{
                executor.DIRECTORY: directory,
                executor.USER: user or None,
                executor.GROUP: group or None,
                executor.CODE_DIGEST: code_digest,
                executor.MODEL: model,
                executor.MODEL_BLESSING: model_blessing,
                executor.INFRA_BLESSING: infra_blessing,
                executor.EXAMPLES: examples,
                executor.EVALUATION: evaluation,
                executor.PUSHED_MODEL: types.Channel(type=standard_artifacts.PushedModel),
            }
        )
        super().__init__(spec=spec)
