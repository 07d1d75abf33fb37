"""Builds the steps that train and measure a second model without the unlabelled images.

`model_steps.py` adds them if `evaluation.labelled_only` is on; ModelGate reads what they measure.
"""

from collections.abc import Mapping
from typing import Any

from components.tfx_api import tfx
from pipeline.evaluation import SLICES_MODULE, create_comparison_config
from pipeline.run_fn import LABELLED_ONLY
from pipeline.runs.step import LABELLED_ONLY_EVALUATOR, LABELLED_ONLY_TRAINER
from trainer.data import features


def train_labelled_only(
    settings: Mapping[str, Any], training: str, learning: Mapping[str, Any], hyperparameters: Any
) -> Any:
    """Builds the second training; it differs from the first in `semi_supervised.enabled` alone.

    Args:
        settings: `custom_config` of the Trainer.
        training: The sections that determine this model, JSON.
        learning: Inputs and splits of the Trainer.
        hyperparameters: The tuner's choice; None without one.
    """
    return tfx.components.Trainer(
        run_fn="pipeline.run_fn.run_fn",
        hyperparameters=hyperparameters,
        custom_config={**settings, "training": training, LABELLED_ONLY: True},
        **learning,
    ).with_id(LABELLED_ONLY_TRAINER)


def compare_labelled_only(examples: Any, model: Any, without: Any, code_digest: str) -> Any:
    """Builds the Evaluator that compares both models on the test split."""
    step = tfx.components.Evaluator(
        examples=examples,
        model=model,
        baseline_model=without,
        example_splits=[features.TEST],
        eval_config=create_comparison_config(),
        module_path=SLICES_MODULE,
    ).with_id(LABELLED_ONLY_EVALUATOR)
    # TFX's component has no such parameter; its executor ignores unknown properties.
    step.exec_properties["code_digest"] = code_digest
    return step
