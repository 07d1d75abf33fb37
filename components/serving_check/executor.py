"""Implements ServingCheck's executor: unpacks artifacts, runs the check, writes the blessing.

TFX instantiates it; the check itself does not depend on TFX.
"""

import logging
import posixpath
from typing import Any, Final

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.serving_check.check import check_model
from components.serving_check.config import CHECKED_MODEL_ID, ServingCheckConfig
from trainer.progress import PROGRESS_LOGGER
from trainer.storage import files

MODEL: Final = "model"
BLESSING: Final = "blessing"
CHECK_CONFIG: Final = "check_config"
CODE_DIGEST: Final = "code_digest"

REPORT_FILE: Final = "report.json"
SUMMARY: Final = "summary"

# TFX's InfraValidator writes these values and its Pusher reads them.
_BLESSED: Final = "blessed"
_BLESSED_FILE: Final = "INFRA_BLESSED"
_NOT_BLESSED_FILE: Final = "INFRA_NOT_BLESSED"

_LOG = logging.getLogger(PROGRESS_LOGGER)


class Executor(base_executor.BaseExecutor):
    """Checks one model."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Blesses or refuses the model; faults of the model never raise an error.

        Args:
            input_dict: `model`.
            output_dict: `blessing`: an InfraBlessing with `report.json` and the properties
                `summary` and `checked_model_id`.
            exec_properties: `check_config` (JSON).
        """
        model = artifact_utils.get_single_instance(input_dict[MODEL])
        blessing = artifact_utils.get_single_instance(output_dict[BLESSING])
        config = ServingCheckConfig.model_validate_json(exec_properties[CHECK_CONFIG])
        path = path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model))
        report = check_model(path, config)
        files.write_bytes(posixpath.join(blessing.uri, REPORT_FILE), report.to_json().encode())
        name = _BLESSED_FILE if report.blessed else _NOT_BLESSED_FILE
        files.write_bytes(posixpath.join(blessing.uri, name), b"")
        blessing.set_int_custom_property(_BLESSED, int(report.blessed))
        blessing.set_int_custom_property(CHECKED_MODEL_ID, model.id)
        blessing.set_string_custom_property(SUMMARY, report.summary())
        _LOG.info("%s", report.summary())
