"""Images per second of the bulk job, beside TFX's BulkInferrer and a bare loop, in one run.

    python -m benchmarks.bulk --data DIR --model MODEL [--json]

Every side runs in a fresh process, one after the other, on the same cores, with the same model and
the same images. Start-up is reported apart; rates are without it. `--repeat` lists the archive
that many times under other names. The bare loop is tf.data over TFRecord with the SavedModel's
`annotate`, no Beam, no output. With `--fast` the job leaves out the columns that need the decoder,
and the other sides are asked for the same outputs, in a function of their own that TensorFlow
prunes; the job with all columns runs beside it. Figures: vs_bulk_inferrer, vs_bare_loop,
small_job_vs_imports, with `--fast` also vs_all_columns.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import print_record
from components.bulk_inference.config import CLASSIFY_COLUMNS, DECODER_COLUMNS

_TARGETS = {"vs_bulk_inferrer": 5.0, "vs_bare_loop": 0.8, "small_job_vs_imports": 1.5}

_IMPORTS = "import tensorflow, apache_beam"

BULK_JOB = """
import json, sys
from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.image_sources.config import InputConfig
paths, model, output, engine, columns = json.loads(sys.argv[1])
config = BulkConfig(
    input=InputConfig(paths=paths), model=model, output=output, engine=engine, columns=columns)
print(json.dumps(run_bulk(config).as_dict()))
"""

_BARE_LOOP = """
import json, sys, time
records, model, batch, left_out = json.loads(sys.argv[1])
import tensorflow as tf
loaded = tf.saved_model.load(model)
@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def function(image_bytes):
    answer = loaded.signatures["annotate"](image_bytes=image_bytes)
    return {name: value for name, value in answer.items() if name not in left_out}
spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
data = tf.data.TFRecordDataset(records).batch(batch)
data = data.map(lambda r: tf.io.parse_example(r, spec)["image/encoded"]).prefetch(2)
for first in data.take(1):
    function(image_bytes=first)
begin, images = time.perf_counter(), 0
for encoded in data:
    answer = function(image_bytes=encoded)
    images += len(answer["label_index"].numpy())
print(json.dumps(images / (time.perf_counter() - begin)))
"""

# TFX's BulkInferrer fails on outputs of one string a row ("bytes object has no attribute dtype"),
# so its side gets the same computation behind a signature with the numbers only.
_EXPORT = """
import json, sys
source, target, left_out = json.loads(sys.argv[1])
import tensorflow as tf
class Numbers(tf.Module):
    def __init__(self):
        self.model = tf.saved_model.load(source)
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def numbers(self, examples):
        spec = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_example(examples, spec)["image/encoded"]
        answer = self.model.signatures["annotate"](image_bytes=encoded)
        return {name: value for name, value in answer.items()
                if value.dtype != tf.string and name not in left_out}
module = Numbers()
tf.saved_model.save(module, target, signatures={"serving_default": module.numbers})
"""

_BULK_INFERRER = """
import json, sys, time
folder, model, images = json.loads(sys.argv[1])
import tensorflow as tf
from tfx.components.bulk_inferrer import executor
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import bulk_inferrer_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils
examples = standard_artifacts.Examples()
examples.uri, examples.split_names = folder, '["unlabelled"]'
artifact = standard_artifacts.Model()
artifact.uri = model
result = standard_artifacts.InferenceResult()
result.uri = folder + "/result"
spec = bulk_inferrer_pb2.ModelSpec(model_signature_name=["serving_default"])
context = base_beam_executor.BaseBeamExecutor.Context(
    beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=folder + "/tmp", unique_id="1")
properties = {
    "model_spec": proto_utils.proto_to_json(spec),
    "data_spec": proto_utils.proto_to_json(bulk_inferrer_pb2.DataSpec()),
    "output_example_spec": None}
begin = time.perf_counter()
executor.Executor(context).Do(
    {"examples": [examples], "model": [artifact]}, {"inference_result": [result]}, properties)
print(json.dumps(images / (time.perf_counter() - begin)))
"""


def main() -> None:
    """Runs all sides and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--archive", default="mnist_png.zip", help="a zip of images in that folder")
    parser.add_argument("--model", required=True, help="folder of a pushed model's version")
    parser.add_argument("--repeat", type=int, default=10, help="copies of the archive")
    parser.add_argument("--workers", type=int, default=0, help="cores of the job; 0: all")
    parser.add_argument("--processes", type=int, default=0, help="processes of the job")
    parser.add_argument("--fast", action="store_true", help="without the decoder's columns")
    parser.add_argument("--inferrer-images", type=int, default=70_000)
    parser.add_argument("--skip-inferrer", action="store_true", help="leave TFX's side out")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-bulk-") as folder:
        figures = measure(Path(folder), options)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:40} {value:14.3f}")
    print_record(figures, {name: bound for name, bound in _TARGETS.items() if name in figures})


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measures one side after the other."""
    archive = (options.data / options.archive).resolve()
    model = str(Path(options.model).resolve())
    engine = {"workers": options.workers, "processes": options.processes}
    left_out = DECODER_COLUMNS if options.fast else ()
    columns = [name for name in CLASSIFY_COLUMNS if name not in left_out]
    copies = []
    for copy in range(options.repeat):
        path = folder / f"copy_{copy:03d}{archive.suffix}"
        path.symlink_to(archive)
        copies.append(str(path))

    imports = min(timed(_IMPORTS)[0] for _ in range(2))
    small = small_archive(archive, folder / "small.zip", 100)
    small_seconds, _ = timed(
        BULK_JOB, [[str(small)], model, str(folder / "small"), engine, columns]
    )

    job = timed(BULK_JOB, [copies, model, str(folder / "out"), engine, columns])[1]
    output = sum(file.stat().st_size for file in (folder / "out" / "table").rglob("*.parquet"))
    again_seconds, again = timed(BULK_JOB, [copies, model, str(folder / "out"), engine, columns])
    shutil.rmtree(folder / "out")

    records, images = write_records(archive, folder / "examples", options.inferrer_images)
    bare = {batch: timed(_BARE_LOOP, [records, model, batch, left_out])[1] for batch in (256, 1024)}
    record = {
        "images": job["members"],
        "imports_seconds": imports,
        "small_job_seconds": small_seconds,
        "small_job_vs_imports": small_seconds / imports,
        "job_seconds": job["seconds"],
        "job_startup_seconds": job["startup_seconds"],
        "job_images_per_second": job["steady_images_per_second"] or job["images_per_second"],
        "job_output_bytes": output,
        "finished_job_seconds": again_seconds,
        "finished_job_members": again["members_done_now"],
        **{f"bare_loop_images_per_second_{batch}": rate for batch, rate in bare.items()},
    }
    if options.fast:
        whole = timed(
            BULK_JOB, [copies, model, str(folder / "all"), engine, list(CLASSIFY_COLUMNS)]
        )[1]
        rate = whole["steady_images_per_second"] or whole["images_per_second"]
        record["job_images_per_second_all_columns"] = rate
        record["vs_all_columns"] = record["job_images_per_second"] / rate
    record["vs_bare_loop"] = record["job_images_per_second"] / max(bare.values())
    if not options.skip_inferrer:
        trained = folder / "trained"
        timed(_EXPORT, [model, str(trained / "Format-Serving"), left_out])
        rate = timed(_BULK_INFERRER, [str(folder / "examples"), str(trained), images])[1]
        record["bulk_inferrer_images_per_second"] = rate
        record["vs_bulk_inferrer"] = record["job_images_per_second"] / rate
    return record


def timed(code: str, arguments: Any = None) -> tuple[float, Any]:
    """Runs code in a fresh interpreter.

    Returns:
        Wall time from start to exit, seconds, and the JSON of its last line, if any.
    """
    command = [sys.executable, "-W", "ignore", "-c", code]
    if arguments is not None:
        command.append(json.dumps(arguments))
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = done.stdout.strip().splitlines()
    return seconds, json.loads(lines[-1]) if lines else None


def members(archive: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the first files of a zip."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if not name.endswith("/")][:most]
        yield from ((name, opened.read(name)) for name in names)


def small_archive(archive: Path, path: Path, most: int) -> Path:
    """Writes a zip of the first files of another."""
    with zipfile.ZipFile(path, "w") as small:
        for name, data in members(archive, most):
            small.writestr(name, data)
    return path


def write_records(archive: Path, folder: Path, most: int) -> tuple[list[str], int]:
    """Writes tf.Examples as TFX keeps them.

    Returns:
        Paths of the TFRecord files, and the number of images.
    """
    from components.tfrecord_frames import frame
    from trainer.data import features

    split = folder / "Split-unlabelled"
    split.mkdir(parents=True)
    path = split / "data-00000-of-00001"
    images = 0
    with path.open("wb") as file:
        for _, data in members(archive, most):
            file.write(frame([example(features.ENCODED, data)]))
            images += 1
    return [str(path)], images


def example(name: str, data: bytes) -> bytes:
    """A serialised tf.Example of one bytes feature."""
    from tensorflow.core.example import example_pb2, feature_pb2

    feature = feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=[data]))
    features = feature_pb2.Features(feature={name: feature})
    return example_pb2.Example(features=features).SerializeToString()


if __name__ == "__main__":
    main()
