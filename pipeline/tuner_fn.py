"""Defines the entry point of TFX's Tuner, which searches for the best options.

The component writes the best of them to an artifact, which the Trainer's `run_fn` applies.
"""

import logging
from typing import Any

from components.tfx_api import tfx
from pipeline.training import prepare
from pipeline.training_folder import FOLDERS, remove_training, training_folder
from trainer.progress import PROGRESS_LOGGER
from trainer.search.tuning import OptionTuner

_LOG = logging.getLogger(PROGRESS_LOGGER)


class _PipelineTuner(OptionTuner):
    """Logs the result and removes the working folder."""

    def results_summary(self, num_trials: int = 10) -> None:
        """Logs the best trial; TFX calls it last, so the folder is no longer needed."""
        del num_trials
        _LOG.info("%s", self.verdict())
        remove_training(self.directory)


def tuner_fn(fn_args: Any) -> tfx.components.TunerFnResult:
    """Prepares the search for TFX's Tuner.

    Args:
        fn_args: TFX's `FnArgs`; `custom_config` as for `run_fn`.

    Returns:
        The tuner; TFX calls its `search()`.

    Raises:
        ValueError: No model can be trained with the options and data; the message tells why.
    """
    training = prepare(fn_args, scratch=fn_args.working_dir)
    identity = {"code": fn_args.custom_config["code_digest"], **training.identity()}
    folder = training_folder(fn_args.custom_config[FOLDERS], "tuner", identity)
    tuner = _PipelineTuner(
        model_config=training.model,
        trainer_config=training.trainer,
        directory=folder,
        strategy=training.strategy,
        **training.arguments(),
    )
    return tfx.components.TunerFnResult(tuner=tuner, fit_kwargs={})
