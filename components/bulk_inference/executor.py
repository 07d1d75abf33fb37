"""Implements BulkInference's executor: unpacks artifacts, checks the blessings, runs the job.

TFX instantiates it; the job itself does not depend on TFX.
"""

import logging
from typing import Any, Final

from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.bulk_inference.running.progress import BulkProgress
from components.image_sources.config import InputConfig
from trainer.data import features
from trainer.errors import UserError
from trainer.progress import PROGRESS_LOGGER

MODEL: Final = "model"
MODEL_BLESSING: Final = "model_blessing"
INFRA_BLESSING: Final = "infra_blessing"
EXAMPLES: Final = "examples"
ANNOTATIONS: Final = "annotations"

BULK_CONFIG: Final = "bulk_config"
"""JSON of the `bulk:` section; the driver replaces its spans by the paths of those spans."""
SPLIT: Final = "split"
CODE_DIGEST: Final = "code_digest"
INPUT_FINGERPRINT: Final = "input_fingerprint"
"""Fingerprint of the archives' content; the driver computes it unless the component received
one."""

_LOG = logging.getLogger(PROGRESS_LOGGER)


class UnblessedModelError(UserError, ValueError):
    """Reports that the model was not blessed and therefore labels nothing."""


class Executor(base_executor.BaseExecutor):
    """Runs one bulk job."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Annotates the images.

        Args:
            input_dict: `model`, and optionally `model_blessing`, `infra_blessing` and
                `examples`.
            output_dict: `annotations`: the job's output folder; its counts become properties.
            exec_properties: `bulk_config` (JSON) and, with examples, `split`.

        Raises:
            UnblessedModelError: if either blessing is given and denied.
            InputError: if the images or the model cannot be used.
        """
        model = artifact_utils.get_single_instance(input_dict[MODEL])
        blessings = input_dict.get(MODEL_BLESSING) or []
        if blessings and not model_utils.is_model_blessed(blessings[0]):
            raise UnblessedModelError(
                f"{model.uri}: this model was not blessed, so no image is labelled with it; see"
                " why in the gate's verdict"
            )
        checks = input_dict.get(INFRA_BLESSING) or []
        if checks and not model_utils.is_infra_validated(checks[0]):
            raise UnblessedModelError(
                f"{model.uri}: the export of this model was refused by the check before serving,"
                f" so no image is labelled with it; see why in {checks[0].uri}"
            )
        output = artifact_utils.get_single_instance(output_dict[ANNOTATIONS])
        config = BulkConfig.model_validate_json(exec_properties[BULK_CONFIG])
        changes: dict[str, Any] = {
            "model": path_utils.serving_model_path(model.uri),
            "output": output.uri,
            # The component owns its artifact's folder, including leftovers of an earlier attempt.
            "overwrite": True,
            # A dry run is for interactive use; a pipeline step must produce a table.
            "dry_run": False,
        }
        if input_dict.get(EXAMPLES):
            split = exec_properties.get(SPLIT) or features.UNLABELLED
            folder = artifact_utils.get_split_uri(input_dict[EXAMPLES], split)
            changes["input"] = InputConfig(paths=(f"{folder}/*",), format="tfrecord")
        result = run_bulk(config.model_copy(update=changes), progress=_report)
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in result.reasons.items())
        drifted = "; DRIFT: see drift.md there" if (result.drift or {}).get("alarm") else ""
        _LOG.info(
            "%s rows, %s rejects%s in %s%s",
            f"{result.rows:,}",
            f"{result.rejects:,}",
            f" ({rejects})" if rejects else "",
            output.uri,
            drifted,
        )
        for name in ("members", "rows", "rejects", "duplicates"):
            output.set_int_custom_property(name, getattr(result, name))


def _report(event: BulkProgress) -> None:
    _LOG.info("%s", event.line())
