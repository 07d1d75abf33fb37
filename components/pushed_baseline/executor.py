"""Adapts TFX's Evaluator to orchestrators that always pass a baseline, even an empty one."""

from typing import Any

from tfx import types
from tfx.components.evaluator import executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

from trainer.storage import files


class BaselineEvaluator(executor.Executor):
    """Evaluates a model; a baseline without files, as before the first push, counts as none."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates the model.

        Args:
            input_dict: As for TFX's Evaluator.
            output_dict: As for TFX's Evaluator.
            exec_properties: As for TFX's Evaluator.
        """
        key = standard_component_specs.BASELINE_MODEL_KEY
        inputs = dict(input_dict)
        if inputs.get(key):
            uri = artifact_utils.get_single_uri(inputs[key])
            if not files.is_folder(path_utils.serving_model_dir(uri)):
                del inputs[key]
        super().Do(inputs, output_dict, exec_properties)
