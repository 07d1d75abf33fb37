"""Builds the steps that train a model and judge it; `graph.py` calls it."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfx.dsl.components.base import base_node
from tfx.proto import trainer_pb2
from tfx.utils import json_utils

from components.baseline_model.strategy import (
    LatestOtherBlessedModelStrategy,
    WarmStartStrategy,
)
from components.image_example_gen.executor import FINGERPRINT
from components.model_gate.component import ModelGate
from components.pushed_baseline.component import PushedBase, PushedBaseline
from components.serving_check.component import ServingCheck
from components.tfx_api import tfx
from pipeline.config import PipelineConfig
from pipeline.evaluation import SLICES_MODULE, create_eval_config
from pipeline.labelled_only import compare_labelled_only, train_labelled_only
from pipeline.places import Places
from pipeline.training_folder import FOLDERS, TRAININGS
from trainer.data import features

BASELINE = "baseline_model"
# Argo, on which Kubeflow is built, does not allow underscores in task names.
CLUSTER_BASELINE = "baseline-model"
BASE = "base_model"
CLUSTER_BASE = "base-model"


class DataSteps(NamedTuple):
    """The steps from ingest to Transform.

    Attributes:
        steps: the steps, each after those that it reads.
        examples: channel of the images.
        transform_graph: channel of Transform's graph.
    """

    steps: list[base_node.BaseNode]
    examples: Any
    transform_graph: Any


class TrainingSteps(NamedTuple):
    """The steps that train.

    Attributes:
        steps: the steps, each after those that it reads.
        trainer: the Trainer of the model that may be pushed.
        others: channels of the models that are trained for comparison only.
    """

    steps: list[base_node.BaseNode]
    trainer: base_node.BaseNode
    others: list[Any]


class VerdictSteps(NamedTuple):
    """The steps that judge a model.

    Attributes:
        steps: the steps, each after those that it reads.
        evaluation: channel of the Evaluator's metrics.
        blessed: channels of the model and its blessings, by the names that Pusher gives them;
            None stands for the blessing of a check that is disabled.
    """

    steps: list[base_node.BaseNode]
    evaluation: Any
    blessed: dict[str, Any]


def training_steps(
    config: PipelineConfig, places: Places, digests: Mapping[str, str], data: DataSteps
) -> TrainingSteps:
    """Builds the Tuner, the model to start from, the labelled-only training and the Trainer.

    Args:
        config: The configuration.
        places: The storage locations.
        digests: Digests of the project's code, by step.
        data: The steps that ingest and normalise the images.
    """
    learning: dict[str, Any] = {
        "examples": data.examples,
        "transform_graph": data.transform_graph,
        "train_args": trainer_pb2.TrainArgs(splits=[features.TRAIN]),
        # run_fn finds the other splits next to this one; TFX's default, `eval`, does not exist.
        "eval_args": trainer_pb2.EvalArgs(splits=[features.TRAIN]),
    }
    # Only the cache reads the digest of the weights.
    weights = {"weights_digest": places.weights} if places.weights else {}
    shared = {FOLDERS: f"{places.artifacts}/{TRAININGS}", **weights}
    tuners = []
    if config.trainer.tuner.enabled:
        tuner = tfx.components.Tuner(
            tuner_fn="pipeline.tuner_fn.tuner_fn",
            custom_config={
                "training": _training_config(config, tuner=True),
                "code_digest": digests["Tuner"],
                **shared,
            },
            **learning,
        )
        tuners = [tuner]
    hyperparameters = tuners[0].outputs["best_hyperparameters"] if tuners else None
    settings = {"training": _training_config(config), "code_digest": digests["Trainer"], **shared}
    bases = _bases(
        config,
        places,
        settings,
        read={
            "examples": data.examples,
            "transform_graph": data.transform_graph,
            **({"hyperparameters": hyperparameters} if hyperparameters else {}),
        },
    )
    others = []
    if config.evaluation.labelled_only != "off":
        training = _training_config(config, labelled_only=True)
        others = [train_labelled_only(settings, training, learning, hyperparameters)]
    trainer = tfx.components.Trainer(
        run_fn="pipeline.run_fn.run_fn",
        hyperparameters=hyperparameters,
        base_model=bases[0].outputs["model"] if bases else None,
        custom_config=settings,
        **learning,
    )
    return TrainingSteps(
        steps=[*tuners, *bases, *others, trainer],
        trainer=trainer,
        others=[other.outputs["model"] for other in others],
    )


def verdict_steps(
    config: PipelineConfig,
    places: Places,
    digests: Mapping[str, str],
    data: DataSteps,
    training: TrainingSteps,
) -> VerdictSteps:
    """Builds the check of the export, the search for the last blessed model, Evaluator and gate.

    Args:
        config: The configuration.
        places: The storage locations.
        digests: Digests of the project's code, by step.
        data: The steps that ingest and normalise the images.
        training: The steps that train.
    """
    model = training.trainer.outputs["model"]
    checks = _serving_checks(config, model, digests["ServingCheck"])
    baseline = _baseline(config, places, training.trainer)
    evaluator = tfx.components.Evaluator(
        examples=data.examples,
        model=model,
        baseline_model=baseline.outputs["model"],
        example_splits=[features.TEST],
        eval_config=create_eval_config(config),
        module_path=SLICES_MODULE,
    )
    # TFX's component has no such parameter; its executor ignores unknown properties.
    evaluator.exec_properties["code_digest"] = digests["Evaluator"]
    comparisons = [
        compare_labelled_only(data.examples, model, other, digests["Evaluator"])
        for other in training.others
    ]
    gate = ModelGate(
        evaluation=evaluator.outputs["evaluation"],
        model=model,
        baseline_model=baseline.outputs["model"],
        labelled_only=comparisons[0].outputs["evaluation"] if comparisons else None,
        bounds=config.evaluation,
        code_digest=digests["ModelGate"],
    )
    return VerdictSteps(
        steps=[*checks, baseline, evaluator, *comparisons, gate],
        evaluation=evaluator.outputs["evaluation"],
        blessed={
            "model": model,
            "model_blessing": gate.outputs["blessing"],
            "infra_blessing": checks[0].outputs["blessing"] if checks else None,
        },
    )


def _bases(
    config: PipelineConfig, places: Places, settings: dict[str, Any], read: dict[str, Any]
) -> list[base_node.BaseNode]:
    """Builds the step that finds the model to start from, if warm start is configured."""
    if not config.trainer.warm_start:
        return []
    if places.input_state:
        pushed = PushedBase(
            directory=config.push.directory, input_fingerprint=places.input_state[FINGERPRINT]
        )
        return [pushed.with_id(CLUSTER_BASE)]
    base = tfx.dsl.Resolver(
        strategy_class=WarmStartStrategy,
        config={"settings": json_utils.dumps(settings), "directory": config.push.directory},
        **read,
        **_blessed_models(config),
    )
    return [base.with_id(BASE)]


def _blessed_models(config: PipelineConfig) -> dict[str, Any]:
    """Returns channels of all models of the pipeline with their blessings."""
    artifacts = tfx.types.standard_artifacts
    kinds = {"model": artifacts.Model, "model_blessing": artifacts.ModelBlessing}
    if config.serving_check.enabled:
        kinds["infra_blessing"] = artifacts.InfraBlessing
    return {name: tfx.dsl.Channel(type=kind) for name, kind in kinds.items()}


def _baseline(
    config: PipelineConfig, places: Places, trainer: base_node.BaseNode
) -> base_node.BaseNode:
    if places.input_state:
        pushed = PushedBaseline(candidate=trainer.outputs["model"], directory=config.push.directory)
        return pushed.with_id(CLUSTER_BASELINE)
    return tfx.dsl.Resolver(
        strategy_class=LatestOtherBlessedModelStrategy,
        config={"directory": config.push.directory},
        candidate=trainer.outputs["model"],
        **_blessed_models(config),
    ).with_id(BASELINE)


def _serving_checks(
    config: PipelineConfig, model: Any, code_digest: str
) -> list[base_node.BaseNode]:
    """Returns the check of the export, unless it is disabled."""
    if not config.serving_check.enabled:
        return []
    return [ServingCheck(model, config.serving_check, code_digest=code_digest)]


def _training_config(
    config: PipelineConfig, *, tuner: bool = False, labelled_only: bool = False
) -> str:
    """Returns the sections that determine the model, so that a changed bound retrains nothing.

    The tuner's options are passed to the Tuner only: the Trainer gets its choice as an artifact. It
    also gets the model to start from as an artifact, whose absence means a cold start.
    """
    tree = config.model_dump(mode="json", by_alias=True)
    del tree["trainer"]["warm_start"]
    if not tuner:
        del tree["trainer"]["tuner"]
    if labelled_only:
        tree["trainer"]["semi_supervised"]["enabled"] = False
    sections = ("name", "input", "image", "schema", "model", "trainer")
    return json.dumps({section: tree[section] for section in sections}, sort_keys=True)
