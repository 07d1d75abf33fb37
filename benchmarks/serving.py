"""Latency and throughput of `serving_default`, by batch size and with TF Serving's batching.

    python -m benchmarks.serving --data DIR --model MODEL [--json]

Every side runs in a fresh process. First single calls of 1 to 256 images through a TF1-style
session, as TF Serving makes them. Then many callers with one image each, with and without
TensorFlow's BatchFunction, which runs the scheduler that TF Serving's --enable_batching runs, so
that its parameters can be chosen without the server. Network and parsing of requests are not in
these figures. Figures: batching_gain, and rates and latencies by batch size and by parameters.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.bulk import timed
from benchmarks.record import print_record

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CALLERS = (1, 8, 64)
_TIMEOUTS = (0, 1000, 5000)

_CALLS = """
import json, sys, time
import numpy as np, tensorflow as tf
archive, names, model, sizes, seconds, cores = json.loads(sys.argv[1])
import zipfile
with zipfile.ZipFile(archive) as opened:
    images = np.array([opened.read(name) for name in names], object)
options = tf.compat.v1.ConfigProto(
    intra_op_parallelism_threads=cores, inter_op_parallelism_threads=cores)
session = tf.compat.v1.Session(graph=tf.Graph(), config=options)
with session.graph.as_default():
    meta = tf.compat.v1.saved_model.load(session, ["serve"], model)
signature = meta.signature_def["serving_default"]
(argument,) = signature.inputs.values()
call = session.make_callable([t.name for t in signature.outputs.values()], [argument.name])
found = {}
for size in sizes:
    batch = images[:size]
    for _ in range(5):
        call(batch)
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call(batch)
        times.append(time.perf_counter() - start)
    found[size] = [len(times) * size / sum(times), *np.percentile(times, [50, 99]).tolist()]
print(json.dumps(found))
"""

# The callers are tf.data's: Python's threads stop each other at 2,200 calls a second.
_BATCHED = """
import json, sys, time
import numpy as np, tensorflow as tf
archive, names, model, callers, timeout, most, seconds, cores = json.loads(sys.argv[1])
tf.config.threading.set_intra_op_parallelism_threads(cores)
tf.config.threading.set_inter_op_parallelism_threads(cores)
import zipfile
with zipfile.ZipFile(archive) as opened:
    images = [opened.read(name) for name in names]
loaded = tf.saved_model.load(model)
signature = loaded.signatures["serving_default"]
outputs = list(signature.structured_outputs)
def answer(image_bytes):
    found = signature(image_bytes=image_bytes)
    return tuple(found[name] for name in outputs)
if timeout is not None:
    # One in a process: those of the same name share the first one's queue and parameters.
    answer = tf.nondifferentiable_batch_function(
        num_batch_threads=cores, max_batch_size=most, batch_timeout_micros=timeout,
        max_enqueued_batches=1000)(answer)
def request(image):
    # Every output is handed on, or TensorFlow computes only what is.
    return answer(image[tf.newaxis])
points = []
for count in callers:
    data = tf.data.Dataset.from_tensor_slices(images).repeat()
    data = data.map(request, num_parallel_calls=count, deterministic=False).batch(100)
    stream, answers = iter(data), 0
    for _ in range(5):
        next(stream)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        answers += len(next(stream)[0])
    points.append([count, answers / (time.perf_counter() - begin)])
print(json.dumps(points))
"""


def main() -> None:
    """Measures and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the archive")
    parser.add_argument("--archive", default="mnist_png.zip", help="a zip of images in that folder")
    parser.add_argument("--model", required=True, help="folder of a pushed model's version")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each point")
    parser.add_argument("--cores", type=int, default=2, help="threads of TensorFlow's pools")
    parser.add_argument("--max-batch", type=int, default=64, help="TF Serving's max_batch_size")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures = measure(options)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:48} {value:14.3f}")
    print_record(figures, {})


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measures all points; rates in images per second, latencies in milliseconds."""
    archive = (options.data / options.archive).resolve()
    model = str(Path(options.model).resolve())
    with zipfile.ZipFile(archive) as opened:
        members = [name for name in opened.namelist() if name.endswith((".png", ".jpg"))]
    names = members[:: max(1, len(members) // max(_SIZES))][: max(_SIZES)]
    common: list[Any] = [str(archive), names, model]
    calls = timed(_CALLS, [*common, _SIZES, options.seconds, options.cores])[1]
    figures: dict[str, float] = {}
    for size in _SIZES:
        figures |= _named(f"batch_{size}", calls[str(size)])
    for timeout in (None, *_TIMEOUTS):
        kind = "unbatched" if timeout is None else f"batched_{timeout}us"
        arguments = [_CALLERS, timeout, options.max_batch, options.seconds, options.cores]
        for callers, rate in timed(_BATCHED, [*common, *arguments])[1]:
            figures[f"callers_{callers}_{kind}_images_per_second"] = rate
            # Little's law: so many requests are under way all the time.
            figures[f"callers_{callers}_{kind}_mean_ms"] = 1000 * callers / rate
    most = max(_CALLERS)
    best = max(figures[f"callers_{most}_batched_{t}us_images_per_second"] for t in _TIMEOUTS)
    figures["batching_gain"] = best / figures[f"callers_{most}_unbatched_images_per_second"]
    return figures


def _named(name: str, point: list[float]) -> dict[str, float]:
    rate, median, worst = point
    return {
        f"{name}_images_per_second": rate,
        f"{name}_p50_ms": 1000 * median,
        f"{name}_p99_ms": 1000 * worst,
    }


if __name__ == "__main__":
    main()
