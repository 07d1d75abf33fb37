"""Builds the pipeline as a pure function of its configuration and the runner's storage places."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow_data_validation as tfdv
from tfx.dsl.components.base import base_node
from tfx.proto import trainer_pb2, transform_pb2
from tfx.utils import json_utils

from components.anomaly_gate.component import AnomalyGate
from components.baseline_model.strategy import (
    LatestOtherBlessedModelStrategy,
    WarmStartStrategy,
)
from components.bulk_inference.component import BulkInference
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.executor import FINGERPRINT
from components.image_schema_gen.component import CuratedSchema, ImageSchemaGen
from components.model_gate.component import ModelGate
from components.model_push.component import Pusher
from components.pushed_baseline.component import PushedBase, PushedBaseline
from components.retraining.component import RunRecord
from components.serving_check.component import ServingCheck
from components.tfx_api import tfx
from pipeline.config import PipelineConfig
from pipeline.evaluation import SLICES_MODULE, create_eval_config
from pipeline.labelled_only import compare_labelled_only, train_labelled_only
from pipeline.step_digests import by_step
from pipeline.training_folder import FOLDERS, TRAININGS
from pipeline.vertex_push import vertex_pushers
from trainer.data import features

BASELINE = "baseline_model"
# Argo, on which Kubeflow is built, does not allow underscores in task names.
CLUSTER_BASELINE = "baseline-model"
BASE = "base_model"
CLUSTER_BASE = "base-model"


@dataclass(frozen=True)
class Places:
    """Storage locations of a pipeline.

    Attributes:
        artifacts: root folder of all artifacts.
        metadata: connection to ML Metadata; None if the orchestrator has its own.
        input_state: exec properties of ImageExampleGen that the orchestrator supplies at run time
            instead of the driver; empty if there is a driver. If they are supplied, our resolver is
            not available either, so the baseline is read from the folder of pushed models.
        history: file in which a last step records the verdict; empty if a metadata store can be
            queried.
        weights: digest of the file of a backbone's weights, of which the cache sees only the path.
        schema: digest of the curated schema, likewise.
    """

    artifacts: str
    metadata: Any = None
    input_state: Mapping[str, Any] = field(default_factory=dict)
    history: str = ""
    weights: str = ""
    schema: str = ""


def create_pipeline(
    config: PipelineConfig, *, places: Places, code_digest: str | Mapping[str, str]
) -> tfx.dsl.Pipeline:
    """Builds the DAG from images to a pushed model.

    Args:
        config: The configuration.
        places: The storage locations.
        code_digest: Digest of the project's code, by step (`step_digests`) or one for all steps. It
            is part of the exec properties, because TFX's cache sees only the dotted path of code.

    Returns:
        The pipeline; no step has run.
    """
    digests = by_step(code_digest)
    example_gen = ImageExampleGen(
        config.input,
        image_config=config.image,
        code_digest=digests["ImageExampleGen"],
        given=places.input_state,
    )
    examples = example_gen.outputs["examples"]

    statistics_gen = tfx.components.StatisticsGen(
        examples=examples,
        # Sketches bound memory use: nearly every image, file name and hash is a distinct value,
        # and exact counts would store them all.
        stats_options=tfdv.StatsOptions(experimental_use_sketch_based_topk_uniques=True),
        exclude_splits=_without(config.statistics.splits),
    )
    schema_step, schema = _schema(config, statistics_gen, digests["SchemaGen"], places.schema)
    validator = tfx.components.ExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema,
        # The schema requires a label, which the images of `unlabelled` lack.
        exclude_splits=[*_without(config.statistics.splits), features.UNLABELLED],
    )
    anomalies = validator.outputs["anomalies"]
    gate = AnomalyGate(anomalies=anomalies, code_digest=digests["AnomalyGate"])

    transform = tfx.components.Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="trainer.data.preprocessing.preprocessing_fn",
        # Only the graph is needed. Materialised float pixels take 9 to 14 times the images' size.
        materialize=False,
        splits_config=transform_pb2.SplitsConfig(analyze=[features.TRAIN]),
        disable_statistics=True,
        # The cache pays off over many spans; for one span it adds a third more Beam stages.
        disable_analyzer_cache=True,
        custom_config={
            "image": config.image.model_dump(),
            "code_digest": digests["Transform"],
        },
    )
    transform.add_upstream_node(gate)

    learning: dict[str, Any] = {
        "examples": examples,
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": trainer_pb2.TrainArgs(splits=[features.TRAIN]),
        # run_fn finds the other splits next to this one; TFX's default, `eval`, does not exist.
        "eval_args": trainer_pb2.EvalArgs(splits=[features.TRAIN]),
    }
    # Only the cache reads the digest of the weights.
    weights = {"weights_digest": places.weights} if places.weights else {}
    shared = {FOLDERS: f"{places.artifacts}/{TRAININGS}", **weights}
    tuner = None
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
    hyperparameters = tuner.outputs["best_hyperparameters"] if tuner else None
    settings = {"training": _training_config(config), "code_digest": digests["Trainer"], **shared}
    bases = _bases(
        config,
        places,
        settings,
        read={
            "examples": examples,
            "transform_graph": transform.outputs["transform_graph"],
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
    baseline = _baseline(config, places, trainer)
    evaluator = tfx.components.Evaluator(
        examples=examples,
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        example_splits=[features.TEST],
        eval_config=create_eval_config(config),
        module_path=SLICES_MODULE,
    )
    # TFX's component has no such parameter; its executor ignores unknown properties.
    evaluator.exec_properties["code_digest"] = digests["Evaluator"]
    comparisons = [
        compare_labelled_only(
            examples, trainer.outputs["model"], other.outputs["model"], digests["Evaluator"]
        )
        for other in others
    ]
    model_gate = ModelGate(
        evaluation=evaluator.outputs["evaluation"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        labelled_only=comparisons[0].outputs["evaluation"] if comparisons else None,
        bounds=config.evaluation,
        code_digest=digests["ModelGate"],
    )
    checks = _serving_checks(config, trainer.outputs["model"], digests["ServingCheck"])
    blessed = {
        "model": trainer.outputs["model"],
        "model_blessing": model_gate.outputs["blessing"],
        "infra_blessing": checks[0].outputs["blessing"] if checks else None,
    }
    pusher = Pusher(
        config.push.directory,
        **blessed,
        examples=examples,
        evaluation=evaluator.outputs["evaluation"],
        user=config.push.user,
        group=config.push.group,
        code_digest=digests["Pusher"],
    )
    labelling = []
    if config.bulk.in_pipeline:
        step = BulkInference(
            trainer.outputs["model"],
            config.bulk,
            model_blessing=blessed["model_blessing"],
            infra_blessing=blessed["infra_blessing"],
            code_digest=digests["BulkInference"],
        )
        # It ends the run if the model was refused, so all other steps must run before it.
        step.add_upstream_node(pusher)
        labelling = [step]
    components: list[base_node.BaseNode] = [
        example_gen,
        statistics_gen,
        schema_step,
        validator,
        gate,
        transform,
        *([tuner] if tuner else []),
        *bases,
        *others,
        trainer,
        *checks,
        baseline,
        evaluator,
        *comparisons,
        model_gate,
        pusher,
        *vertex_pushers(config, places.artifacts, blessed),
        *labelling,
    ]
    if places.history:
        components.append(
            RunRecord(
                examples=examples,
                blessing=model_gate.outputs["blessing"],
                pushed_model=pusher.outputs["pushed_model"],
                history=places.history,
                **({"infra_blessing": checks[0].outputs["blessing"]} if checks else {}),
            )
        )
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=places.artifacts,
        components=components,
        enable_cache=config.cache,
        metadata_connection_config=places.metadata,
        beam_pipeline_args=list(config.beam.args),
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


def _schema(
    config: PipelineConfig,
    statistics_gen: base_node.BaseNode,
    code_digest: str,
    content_digest: str,
) -> tuple[base_node.BaseNode, Any]:
    if config.data_schema.path is not None:
        step = CuratedSchema(
            path=config.data_schema.path, content_digest=content_digest, code_digest=code_digest
        ).with_id("ImportSchemaGen")
    else:
        step = ImageSchemaGen(
            statistics=statistics_gen.outputs["statistics"], code_digest=code_digest
        ).with_id("SchemaGen")
    return step, step.outputs["schema"]


def _without(splits: Sequence[str]) -> list[str]:
    """Returns every other split, because TFX's components take the splits to exclude."""
    return [split for split in features.SPLITS if split not in splits]


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
