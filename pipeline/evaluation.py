"""What TFMA measures on the test split and which bounds bless a model; the graph calls it."""

from tensorflow_model_analysis.proto import config_pb2

from pipeline.config import EvaluationConfig
from serving import names

ACCURACY = "sparse_categorical_accuracy"
LOG_LOSS = "sparse_categorical_crossentropy"


def create_eval_config(config: EvaluationConfig) -> config_pb2.EvalConfig:
    """Builds TFMA's configuration.

    The label is read by the model's own signature, so that it is numbered as the model's classes
    are. The bound on the change counts only where there is a baseline: TFX blesses a first model
    on the absolute bounds alone.

    Args:
        config: The bounds.

    Returns:
        Metrics over the whole test split, with thresholds on the accuracy.
    """
    accuracy = config_pb2.MetricConfig(
        class_name="SparseCategoricalAccuracy",
        config=f'{{"name": "{ACCURACY}"}}',
        threshold=config_pb2.MetricThreshold(
            value_threshold=config_pb2.GenericValueThreshold(
                lower_bound={"value": config.min_accuracy}
            ),
            change_threshold=config_pb2.GenericChangeThreshold(
                direction=config_pb2.MetricDirection.HIGHER_IS_BETTER,
                absolute={"value": -config.max_accuracy_drop},
            ),
        ),
    )
    log_loss = config_pb2.MetricConfig(
        class_name="SparseCategoricalCrossentropy", config=f'{{"name": "{LOG_LOSS}"}}'
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name=names.CLASSIFY_EXAMPLES,
                preprocessing_function_names=[names.TRANSFORM_LABELS],
                label_key=names.LABEL_INDEX,
                prediction_key=names.PROBABILITIES,
            )
        ],
        slicing_specs=[config_pb2.SlicingSpec()],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[config_pb2.MetricConfig(class_name="ExampleCount"), accuracy, log_loss]
            )
        ],
    )
