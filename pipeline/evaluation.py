"""Configures what TFMA measures on the test split, and in which slices; the graph calls it.

TFMA gets no bounds: `components/model_gate` applies them to the metrics.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.model_gate import metric_names
from pipeline.config import PipelineConfig
from serving import names

SLICES_MODULE = "pipeline.slices"
"""Module in which TFX's Evaluator finds `custom_extractors`."""
_METRICS = "pipeline.quality_metrics"


def create_eval_config(config: PipelineConfig) -> config_pb2.EvalConfig:
    """Builds TFMA's configuration.

    Each model reads the label with its own signature, so that the label's index refers to that
    model's classes. Metrics of a single model are computed for the candidate only. The last blessed
    model, which may not know every class, is compared on the same images (`PairedChange`).

    Args:
        config: The configuration, of which it depends on slices, top k, the shape of the model's
            images and the k of the importance-weighted bound.

    Returns:
        Metrics over the whole test split and its slices, without thresholds.
    """
    own = config_pb2.MetricsSpec(
        model_names=[tfma.CANDIDATE_KEY],
        metrics=[
            _metric("ExampleCount", name=metric_names.EXAMPLE_COUNT),
            _metric(
                "ClassificationQuality", f"{_METRICS}.classification", top_k=config.evaluation.top_k
            ),
            _metric(
                "ModelOutputs",
                f"{_METRICS}.outputs",
                dimensions=math.prod(config.image.shape),
                importance_samples=config.trainer.importance_samples,
            ),
        ],
    )
    return _eval_config([own, _change()], config.evaluation.slices)


def create_comparison_config() -> config_pb2.EvalConfig:
    """Builds TFMA's configuration of a comparison of two models over the whole test split."""
    count = _metric("ExampleCount", name=metric_names.EXAMPLE_COUNT)
    own = config_pb2.MetricsSpec(model_names=[tfma.CANDIDATE_KEY], metrics=[count])
    return _eval_config([own, _change()], ())


def _change() -> config_pb2.MetricsSpec:
    return config_pb2.MetricsSpec(metrics=[_metric("PairedChange", f"{_METRICS}.change")])


def _eval_config(
    metrics: Sequence[config_pb2.MetricsSpec], slices: Sequence[str]
) -> config_pb2.EvalConfig:
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name=names.CLASSIFY_EXAMPLES,
                preprocessing_function_names=[names.TRANSFORM_LABELS],
                label_key=names.LABEL_INDEX,
                prediction_key=names.PROBABILITIES,
            )
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=[kind]) for kind in slices),
        ],
        metrics_specs=metrics,
    )


def _metric(class_name: str, module: str = "", **arguments: Any) -> config_pb2.MetricConfig:
    return config_pb2.MetricConfig(
        class_name=class_name, module=module, config=json.dumps(arguments)
    )
