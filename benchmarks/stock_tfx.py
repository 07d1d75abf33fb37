"""The same job with stock TFX components, written as TFX's own image examples write it.

`benchmarks/pipeline.py` runs it in a process of its own. Images come as TFRecord of tf.Examples,
which a stock user has to make beforehand; that time is not counted.
"""

import functools
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft
from absl import logging as absl_logging
from tensorflow_model_analysis.proto import config_pb2
from tfx import v1 as tfx

from trainer.data import features

_HIDDEN = 512
_LATENT = 16
_BATCH = 128
_BEAM_ARGS = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Decodes and scales; TFX's examples write the floats out, and so does this one."""
    shape = tuple(custom_config["image_shape"])
    image = tf.map_fn(
        lambda content: tf.io.decode_png(content, channels=shape[2]),
        tf.reshape(inputs[features.ENCODED], [-1]),
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )
    return {
        "image": tf.cast(image, tf.float32) / 255.0,
        "label": tft.compute_and_apply_vocabulary(
            tf.reshape(inputs[features.LABEL_TEXT], [-1]), vocab_filename="classes"
        ),
    }


class StockVae(keras.Model):
    """The same network as `mnist-mlp`, with Keras's own training loop."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.flatten = keras.layers.Flatten()
        self.body = keras.layers.Dense(_HIDDEN, activation="relu")
        self.mean = keras.layers.Dense(_LATENT)
        self.log_variance = keras.layers.Dense(_LATENT)
        self.head = keras.layers.Dense(classes)
        self.decoder = keras.Sequential(
            [keras.layers.Dense(_HIDDEN, activation="relu"), keras.layers.Dense(size)]
        )
        self.seeds = keras.random.SeedGenerator(1)
        self.size = size

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Class probabilities."""
        return tf.nn.softmax(self.head(self.body(self.flatten(image))))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """-ELBO / D + cross-entropy."""
        flat = self.flatten(x)
        hidden = self.body(flat)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        noise = keras.random.normal(tf.shape(mean), seed=self.seeds)
        logits = self.decoder(mean + tf.exp(log_variance / 2) * noise)
        reconstruction = tf.reduce_sum(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=flat, logits=logits), axis=1
        )
        kl = -0.5 * tf.reduce_sum(1 + log_variance - mean**2 - tf.exp(log_variance), axis=1)
        cross = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        return tf.reduce_mean((reconstruction + kl) / self.size + cross)


def run_fn(fn_args: Any) -> None:
    """Trains one epoch on the transformed examples and exports."""
    shape = tuple(fn_args.custom_config["image_shape"])
    output = tft.TFTransformOutput(fn_args.transform_graph_path)
    spec = output.transformed_feature_spec()

    def dataset(patterns: list[str]) -> tf.data.Dataset:
        files = tf.data.Dataset.list_files(patterns)
        records = tf.data.TFRecordDataset(files, compression_type="GZIP")
        return (
            records.shuffle(10_000)
            .batch(_BATCH)
            .map(functools.partial(_parse, spec), num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )

    model = StockVae(shape, output.vocabulary_size_by_name("classes"))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), metrics=["accuracy"])
    model.fit(
        dataset(fn_args.train_files),
        epochs=1,
        validation_data=dataset(fn_args.eval_files),
        verbose=2,
    )

    layer = output.transform_features_layer()
    raw = {
        name: kind
        for name, kind in output.raw_feature_spec().items()
        if name in (features.ENCODED, features.LABEL_TEXT)
    }

    def classify(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {features.ENCODED: raw[features.ENCODED]})
        return {"probabilities": model(layer(parsed)["image"])}

    def labels(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"label": layer(tf.io.parse_example(examples, raw))["label"][:, tf.newaxis]}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(layer)
    records = [tf.TensorSpec([None], tf.string, name="examples")]
    archive.add_endpoint("serving_default", classify, input_signature=records)
    archive.add_endpoint("transform_labels", labels, input_signature=records)
    archive.write_out(fn_args.serving_model_dir, verbose=False)


def _parse(spec: dict[str, Any], examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = tf.io.parse_example(examples, spec)
    return parsed["image"], parsed["label"]


def create_pipeline(records: Path, root: Path, image_shape: list[int]) -> tfx.dsl.Pipeline:
    """Builds ImportExampleGen to Pusher, and BulkInferrer over all images."""
    splits = tfx.proto.Input(
        splits=[
            tfx.proto.Input.Split(name="train", pattern="train-*"),
            tfx.proto.Input.Split(name="eval", pattern="eval-*"),
        ]
    )
    gen = tfx.components.ImportExampleGen(input_base=str(records), input_config=splits)
    examples = gen.outputs["examples"]
    statistics = tfx.components.StatisticsGen(examples=examples)
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    transform = tfx.components.Transform(
        examples=examples,
        schema=schema.outputs["schema"],
        preprocessing_fn="benchmarks.stock_tfx.preprocessing_fn",
        custom_config={"image_shape": image_shape},
    )
    trainer = tfx.components.Trainer(
        run_fn="benchmarks.stock_tfx.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        custom_config={"image_shape": image_shape},
    )
    evaluator = tfx.components.Evaluator(
        examples=examples,
        model=trainer.outputs["model"],
        eval_config=config_pb2.EvalConfig(
            model_specs=[
                config_pb2.ModelSpec(
                    signature_name="serving_default",
                    preprocessing_function_names=["transform_labels"],
                    label_key="label",
                    prediction_key="probabilities",
                )
            ],
            slicing_specs=[config_pb2.SlicingSpec()],
            metrics_specs=[
                config_pb2.MetricsSpec(
                    metrics=[
                        config_pb2.MetricConfig(
                            class_name="SparseCategoricalAccuracy",
                            threshold=config_pb2.MetricThreshold(
                                value_threshold=config_pb2.GenericValueThreshold(
                                    lower_bound={"value": 0.5}
                                )
                            ),
                        )
                    ]
                )
            ],
        ),
    )
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(root / "pushed"))
        ),
    )
    bulk = tfx.components.BulkInferrer(
        examples=examples,
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        data_spec=tfx.proto.DataSpec(),
        model_spec=tfx.proto.ModelSpec(model_signature_name=["serving_default"]),
    )
    return tfx.dsl.Pipeline(
        pipeline_name="stock",
        pipeline_root=str(root / "artifacts"),
        components=[
            gen, statistics, schema, validator, transform, trainer, evaluator, pusher, bulk,
        ],
        enable_cache=False,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.sqlite")
        ),
        beam_pipeline_args=_BEAM_ARGS,
    )  # fmt: skip


class _StepTimes(logging.Handler):
    """Measures steps by the log lines that TFX's local runner writes at their start and end.

    Attributes:
        seconds: wall time by step, filled as steps end.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._started = 0.0
        self.seconds: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Handles a log record; ignores all but the two kinds."""
        if record.msg == "Component %s is running.":
            self._started = time.monotonic()
        elif record.msg == "Component %s is finished.":
            (name,) = record.args  # type: ignore[misc]
            self.seconds[str(name)] = time.monotonic() - self._started


def main(records: str, root: str, image_shape: str, report: str) -> None:
    """Runs the pipeline and writes seconds by component into the file `report`."""
    from pipeline.console import captured_output

    folder = Path(root)
    absl_logging.set_verbosity(absl_logging.INFO)
    times = _StepTimes()
    logging.getLogger("absl").addHandler(times)
    with captured_output(folder / "log.txt"):
        dag = create_pipeline(Path(records), folder, json.loads(image_shape))
        tfx.orchestration.LocalDagRunner().run(dag)
    Path(report).write_text(json.dumps(times.seconds), encoding="utf-8")


def write_records(images: Iterator[tuple[bytes, str, str]], folder: Path) -> None:
    """Writes TFRecord files as a stock user would; not part of what is timed.

    Args:
        images: Encoded image, class and split (`train` or `eval`) of each.
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers = {
        split: tf.io.TFRecordWriter(str(folder / f"{split}-00000")) for split in ("train", "eval")
    }
    for encoded, label, split in images:
        example = tf.train.Example()
        example.features.feature[features.ENCODED].bytes_list.value.append(encoded)
        example.features.feature[features.LABEL_TEXT].bytes_list.value.append(label.encode())
        writers[split].write(example.SerializeToString())
    for writer in writers.values():
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
