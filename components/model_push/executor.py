"""Implements the Pusher's executor: unpacks artifacts, checks blessings, publishes the model.

TFX instantiates it; TFX's own Pusher checks the blessings and marks the artifact.
"""

import logging
import math
from pathlib import Path
from typing import Any, Final

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.types import artifact_utils

from components.model_push.management import open_store
from components.model_push.record import create_record
from trainer.progress import PROGRESS_LOGGER
from trainer.storage import files

MODEL: Final = "model"
MODEL_BLESSING: Final = "model_blessing"
INFRA_BLESSING: Final = "infra_blessing"
EXAMPLES: Final = "examples"
EVALUATION: Final = "evaluation"
PUSHED_MODEL: Final = "pushed_model"

DIRECTORY: Final = "directory"
USER: Final = "user"
GROUP: Final = "group"
CODE_DIGEST: Final = "code_digest"

_LOG = logging.getLogger(PROGRESS_LOGGER)

_FINGERPRINT: Final = "input_fingerprint"
"""Custom property of an Examples artifact, as TFX's ExampleGen names it."""


class Executor(tfx_pusher.Executor):
    """Publishes one model, unless a blessing is denied."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model.

        Args:
            input_dict: `model`, or an `infra_blessing` with one; optionally `model_blessing`,
                `infra_blessing`, `examples` (for the data's fingerprint) and `evaluation` (for
                the metrics).
            output_dict: `pushed_model`: receives a copy, and the location of the version as
                properties.
            exec_properties: `directory`, `user`, `group`; `code_digest` is for TFX's cache.

        Raises:
            InputError: if the directory cannot be written.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict[PUSHED_MODEL])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        path = self.GetModelPath(input_dict)
        with files.local_copy(path) as model:
            record = create_record(
                Path(model),
                user=exec_properties.get(USER) or "",
                fingerprint=_fingerprint(input_dict.get(EXAMPLES)),
                metrics=_metrics(input_dict.get(EVALUATION)),
            )
            store = open_store(exec_properties[DIRECTORY], exec_properties.get(GROUP) or "")
            version = store.publish(Path(model), record)
        if version.record.pushed_at != record.pushed_at:
            _LOG.info(
                "%s holds this model since %s; it is not pushed again",
                version.path, version.record.pushed_at,
            )  # fmt: skip
        if note := store.readers_note(version):
            _LOG.info("%s", note)
        files.copy_tree(path, pushed.uri)
        self._MarkPushed(
            pushed, pushed_destination=version.path, pushed_version=str(version.number)
        )


def _fingerprint(examples: list[types.Artifact] | None) -> str:
    if not examples:
        return ""
    return str(examples[0].get_string_custom_property(_FINGERPRINT) or "")


def _metrics(evaluation: list[types.Artifact] | None) -> dict[str, float]:
    """Reads every scalar metric that TFMA computed over the whole test split."""
    if not evaluation:
        return {}
    # The import takes seconds and is needed only here.
    import tensorflow_model_analysis as tfma

    overall = tfma.load_eval_result(evaluation[0].uri).get_metrics_for_slice() or {}
    values = {name: metric.get("doubleValue") for name, metric in overall.items()}
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
