"""Builds the pipeline as a pure function of its configuration and the runner's storage places."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_data_validation as tfdv
from tfx.dsl.components.base import base_node
from tfx.proto import transform_pb2

from components.anomaly_gate.component import AnomalyGate
from components.bulk_inference.component import BulkInference
from components.image_example_gen.component import ImageExampleGen
from components.image_schema_gen.component import CuratedSchema, ImageSchemaGen
from components.model_push.component import Pusher
from components.retraining.component import RunRecord
from components.tfx_api import tfx
from pipeline.config import PipelineConfig
from pipeline.model_steps import DataSteps, VerdictSteps, training_steps, verdict_steps
from pipeline.places import Places
from pipeline.step_digests import by_step
from pipeline.vertex_push import vertex_pushers
from trainer.data import features


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
    data = _data_steps(config, places, digests)
    training = training_steps(config, places, digests, data)
    verdict = verdict_steps(config, places, digests, data, training)
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=places.artifacts,
        components=[
            *data.steps,
            *training.steps,
            *verdict.steps,
            *_delivery_steps(config, places, digests, data, verdict),
        ],
        enable_cache=config.cache,
        metadata_connection_config=places.metadata,
        beam_pipeline_args=list(config.beam.args),
    )


def _data_steps(config: PipelineConfig, places: Places, digests: Mapping[str, str]) -> DataSteps:
    """Builds the steps from ingest to the Transform graph."""
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
    gate = AnomalyGate(anomalies=validator.outputs["anomalies"], code_digest=digests["AnomalyGate"])
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
    return DataSteps(
        steps=[example_gen, statistics_gen, schema_step, validator, gate, transform],
        examples=examples,
        transform_graph=transform.outputs["transform_graph"],
    )


def _delivery_steps(
    config: PipelineConfig,
    places: Places,
    digests: Mapping[str, str],
    data: DataSteps,
    verdict: VerdictSteps,
) -> list[base_node.BaseNode]:
    """Builds the steps that push a blessed model, label archives with it and record the run."""
    blessed = verdict.blessed
    pusher = Pusher(
        config.push.directory,
        **blessed,
        examples=data.examples,
        evaluation=verdict.evaluation,
        user=config.push.user,
        group=config.push.group,
        code_digest=digests["Pusher"],
    )
    steps = [pusher, *vertex_pushers(config, places.artifacts, blessed)]
    if config.bulk.in_pipeline:
        labelling = BulkInference(
            blessed["model"],
            config.bulk,
            model_blessing=blessed["model_blessing"],
            infra_blessing=blessed["infra_blessing"],
            code_digest=digests["BulkInference"],
        )
        # It ends the run if the model was refused, so all other steps must run before it.
        labelling.add_upstream_node(pusher)
        steps.append(labelling)
    if places.history:
        infra = blessed["infra_blessing"]
        record = RunRecord(
            examples=data.examples,
            blessing=blessed["model_blessing"],
            pushed_model=pusher.outputs["pushed_model"],
            history=places.history,
            **({"infra_blessing": infra} if infra else {}),
        )
        steps.append(record)
    return steps


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
