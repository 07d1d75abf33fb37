"""Other programs than Python and TF Serving load a pushed model and give its answers.

A C program that is compiled against the TensorFlow wheel, TensorFlow's `saved_model_cli` and
tfx_bsl's RunInference.
"""

import functools
import math
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tfx_bsl.public.beam import RunInference
from tfx_bsl.public.proto import model_spec_pb2

from serving import names
from tests.forked import Forked
from tests.limits import HANG_SECS
from tests.numeric import assert_same_answers
from tests.serving.conftest import Exported, Reloaded, strings

SOURCE = Path(__file__).parent / "session_loader.c"
# It reads the symbols of a library of a gigabyte four times as fast.
FAST_LINKER = ["-fuse-ld=gold"] if shutil.which("ld.gold") else []
LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")

INVALID_ARGUMENT = 3
"""TF_INVALID_ARGUMENT of `tensorflow/c/tf_status.h`."""

Answers = dict[str, np.ndarray]
FromC = Callable[..., list[Answers]]


class RefusedError(Exception):
    """An error of the C program, with the code of its TF_Status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled and linked with what the TensorFlow wheel contains."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: neither cc nor gcc is on the PATH")
    include, libraries = Path(tf.sysconfig.get_include()), Path(tf.sysconfig.get_lib())
    for needed in (include / "tensorflow/c/c_api.h", *(libraries / name for name in LIBRARIES)):
        if not needed.is_file():
            pytest.skip(f"the TensorFlow wheel has no {needed.name}")
    made = tmp_path_factory.mktemp("program") / "session_loader"
    subprocess.run(
        [compiler, "-std=c11", "-Wall", "-Werror", str(SOURCE), "-isystem", str(include),
         "-L", str(libraries), *(f"-l:{name}" for name in LIBRARIES),
         f"-Wl,-rpath,{libraries}", *FAST_LINKER, "-o", str(made)],
        check=True, timeout=HANG_SECS,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def from_c(program: Path, exported: Exported) -> FromC:
    return functools.partial(call, program, exported.folder)


@pytest.fixture(scope="module")
def from_python(reloaded: Reloaded) -> Callable[[str, np.ndarray], Answers]:
    def ask(signature: str, array: np.ndarray) -> Answers:
        argument = names.PIXELS if signature.endswith(names.PIXELS) else names.IMAGE_BYTES
        return reloaded.model.predict(signature, {argument: array})

    return ask


def call(program: Path, model: Path, signature: str, *arrays: np.ndarray) -> list[Answers]:
    """Feeds arrays to a signature's only input, one after the other in one C program."""
    saved = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[signature]
    (argument,) = definition.inputs.values()
    done = subprocess.run(
        [str(program), str(model), argument.name, *(o.name for o in definition.outputs.values())],
        input=b"".join(map(encoded, arrays)), capture_output=True, timeout=HANG_SECS,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    if done.returncode:
        code, _, message = done.stderr.decode().splitlines()[-1].partition(": ")
        raise RefusedError(int(code), message)
    found = list(decoded(done.stdout))
    size = len(definition.outputs)
    assert len(found) == size * len(arrays)
    return [
        dict(zip(definition.outputs, found[at : at + size], strict=True))
        for at in range(0, len(found), size)
    ]


def encoded(array: np.ndarray) -> bytes:
    """Returns a tensor in the format of `session_loader.c`."""
    kind = (
        types_pb2.DT_STRING if array.dtype == object else tf.as_dtype(array.dtype).as_datatype_enum
    )
    head = struct.pack(f"=ii{array.ndim}q", kind, array.ndim, *array.shape)
    if kind != types_pb2.DT_STRING:
        return head + array.tobytes()
    return head + b"".join(struct.pack("=q", len(text)) + text for text in array.flat)


def decoded(content: bytes) -> Iterator[np.ndarray]:
    """Reads tensors in the format of `session_loader.c`."""
    at = 0
    while at < len(content):
        kind, axes = struct.unpack_from("=ii", content, at)
        shape = struct.unpack_from(f"={axes}q", content, at + 8)
        at += 8 + 8 * axes
        count = math.prod(shape)
        if kind == types_pb2.DT_STRING:
            array = np.empty(count, object)
            for place in range(count):
                (length,) = struct.unpack_from("=q", content, at)
                at += 8 + length
                array[place] = content[at - length : at]
        else:
            array = np.frombuffer(content, tf.as_dtype(kind).as_numpy_dtype, count, at)
            at += array.nbytes
        yield array.reshape(shape)


def test_a_c_program_gives_the_answers_of_python_also_to_one_image_and_none(
    from_c: FromC,
    from_python: Callable[[str, np.ndarray], Answers],
    exported: Exported,
) -> None:
    pixels = exported.pixels
    # `serving_default` is asked below.
    for signature, arrays in (
        (names.ANNOTATE, [strings(exported.contents)]),
        (names.ANNOTATE_PIXELS, [pixels, pixels[:1], pixels[:0]]),
    ):
        for array, found in zip(arrays, from_c(signature, *arrays), strict=True):
            assert found[names.LABEL].shape == (len(array),)
            assert_same_answers(found, from_python(signature, array))


def test_what_the_graph_refuses_is_an_error_in_c(from_c: FromC, exported: Exported) -> None:
    files = strings([exported.contents[0], b"no image", exported.contents[1][:40]])
    with pytest.raises(RefusedError, match="2 of 3 images refused; image 1: not an") as caught:
        from_c(names.SERVING_DEFAULT, files)
    assert caught.value.code == INVALID_ARGUMENT
    with pytest.raises(RefusedError, match="1 to 4 channels, which come last") as caught:
        from_c(names.ANNOTATE_PIXELS, np.zeros([2, 3, 8, 9], np.uint8))
    assert caught.value.code == INVALID_ARGUMENT


def test_saved_model_cli_gives_the_answers_of_python(
    from_python: Callable[[str, np.ndarray], Answers], exported: Exported, tmp_path: Path
) -> None:
    inputs = {
        names.SERVING_DEFAULT: (names.IMAGE_BYTES, strings(exported.contents[:20])),
        names.ANNOTATE_PIXELS: (names.PIXELS, exported.pixels[:20]),
    }
    for signature, (argument, array) in inputs.items():
        file = tmp_path / f"{signature}.npy"
        np.save(file, array, allow_pickle=True)
        process = Forked(
            "tensorflow.python.tools.saved_model_cli", "run", "--dir", str(exported.folder),
            "--tag_set", "serve", "--signature_def", signature, "--inputs", f"{argument}={file}",
            "--outdir", str(tmp_path / signature), output=tmp_path / "printed.txt",
        )  # fmt: skip
        assert process.wait() == 0, process.text
        found = {
            file.stem: np.load(file, allow_pickle=True)
            for file in (tmp_path / signature).glob("*.npy")
        }
        assert_same_answers(found, from_python(signature, array))


def test_run_inference_of_tfx_bsl_gives_the_answers_of_python(
    from_python: Callable[[str, np.ndarray], Answers], exported: Exported
) -> None:
    contents = exported.contents[:20]
    expected = from_python(names.EMBED, strings(contents))
    model = model_spec_pb2.SavedModelSpec(
        model_path=str(exported.folder), signature_name=[names.EMBED]
    )
    keyed = list(enumerate(contents))

    def check(found: list[tuple[int, prediction_log_pb2.PredictionLog]]) -> None:
        assert sorted(key for key, _ in found) == list(range(len(contents)))
        for key, log in found:
            answer = {
                name: tf.make_ndarray(tensor)[0]
                for name, tensor in log.predict_log.response.outputs.items()
            }
            assert_same_answers(answer, {name: value[key] for name, value in expected.items()})

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        logs = (
            pipeline
            | beam.Create(keyed)
            | RunInference(model_spec_pb2.InferenceSpecType(saved_model_spec=model))
        )
        assert_that(logs, check)
