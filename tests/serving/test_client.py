"""The served APIs and the client: requests as TF Serving documents them, over gRPC and REST.

Against a stand-in over the C++ session loader, and against the real server where it is installed or
runs in a container; see `model_servers.py`.
"""

import base64
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf

from components.model_push.management import open_store, roll_back, set_alias
from components.model_push.record import PushRecord
from components.model_push.serving_config import model_server_config
from components.serving_check.server import free_port
from serving import names
from serving.client import PredictClient
from serving.grpc_transport import GrpcTransport
from serving.predictions import ServingError
from tests.limits import HANG_SECS
from tests.numeric import assert_close, assert_same_answers
from tests.serving.conftest import Exported, Reloaded, strings
from tests.serving.model_servers import (
    Addresses,
    container,
    loopback,
    model_server,
    until,
    until_served,
)

Start = Callable[..., AbstractContextManager[Addresses]]

STARTS = {"loopback": loopback, "tensorflow_model_server": model_server, "container": container}
on_every_server = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())


@pytest.fixture(scope="module", params=STARTS)
def server(request: pytest.FixtureRequest, exported: Exported) -> Iterator[Addresses]:
    with STARTS[request.param](exported.folder.parent) as addresses:
        yield addresses


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, server: Addresses) -> Iterator[PredictClient]:
    with connected(server[request.param], first_pause_secs=0.01) as made:
        yield made


def connected(target: str, **options: Any) -> PredictClient:
    """A client whose requests have the time that a slow machine needs to load a signature."""
    return PredictClient(target, timeout_secs=HANG_SECS, **options)


def over_grpc(server: Addresses) -> GrpcTransport:
    host = server["grpc"].removeprefix("grpc://")
    return GrpcTransport(host, model="vaeline", version=None, timeout_secs=HANG_SECS)


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


@pytest.fixture(scope="module")
def in_memory(exported: Exported) -> dict[str, np.ndarray]:
    unit = (exported.pixels[:10] / 255.0).astype(np.float32)
    return {name: value.numpy() for name, value in exported.model.analyse(unit).items()}


def test_every_signature_answers_alike_over_both_ways(
    server: Addresses, exported: Exported, in_memory: dict[str, np.ndarray]
) -> None:
    contents = strings(exported.contents[:10])
    with connected(server["grpc"]) as grpc, connected(server["rest"]) as rest:
        known = grpc.signatures()
        assert rest.signatures() == known
        asked = 0
        for name, sides in known.items():
            arrays = {
                names.IMAGE_BYTES: contents,
                names.PIXELS: exported.pixels[:10],
                names.LATENT: np.zeros([2, 16], np.float32),
                names.COUNT: np.array(3, np.int32),
                names.SEED: np.array(7, np.int64),
            }
            if not set(sides["inputs"]) <= set(arrays):
                continue
            inputs = {argument: arrays[argument] for argument in sides["inputs"]}
            asked += 1
            by_grpc, by_rest = grpc.predict(name, inputs), rest.predict(name, inputs)
            assert sorted(by_grpc) == sorted(by_rest) == sides["outputs"]
            for output, values in by_grpc.items():
                assert by_rest[output].dtype == values.dtype, (name, output)
                if values.dtype == object:
                    np.testing.assert_array_equal(by_rest[output], values)
                else:
                    assert_close(by_rest[output], values, output)
        assert asked >= 7
        probabilities = grpc.predict(names.SERVING_DEFAULT, {names.IMAGE_BYTES: contents})[
            names.PROBABILITIES
        ]
    assert_close(probabilities, in_memory["probabilities"])


def test_callers_at_the_same_time_get_their_own_answers(
    server: Addresses, exported: Exported
) -> None:
    """A server with batching joins their requests."""
    contents = exported.contents[:40]
    for target in server.values():
        with connected(target) as client, ThreadPoolExecutor(8) as pool:
            expected = client.predict(names.EMBED, {names.IMAGE_BYTES: strings(contents)})

            def ask(place: int, client: PredictClient = client) -> np.ndarray:
                files = strings(contents[place : place + 1 + place % 3])
                return client.predict(names.EMBED, {names.IMAGE_BYTES: files})[names.EMBEDDING]

            for place, found in enumerate(pool.map(ask, range(len(contents)))):
                rows = expected[names.EMBEDDING][place : place + 1 + place % 3]
                assert_close(found, rows, f"the request for image {place}")


def test_typed_answers(client: PredictClient, exported: Exported) -> None:
    answers = client.classify(exported.contents[:150])
    assert len(answers) == 150
    assert np.mean([a.label == b for a, b in
                    zip(answers, exported.labels[:150], strict=True)]) > 0.9  # fmt: skip
    for answer in answers:
        assert answer.top_k[0] == (answer.label, answer.probability)
        assert answer.verdict in ("accept", "review", "reject")
    assert client.classify([]) == []


def test_batches_are_cut_and_joined_in_order(server: Addresses, exported: Exported) -> None:
    contents = {names.IMAGE_BYTES: strings(exported.contents[:23])}
    for target in server.values():
        with connected(target) as whole, connected(target, max_batch=5) as cut:
            together = whole.predict(names.EMBED, contents)[names.EMBEDDING]
            apart = cut.predict(names.EMBED, contents)[names.EMBEDDING]
        assert together.shape == (23, 16)
        assert_close(apart, together)


def test_a_bad_image_is_an_error_and_spoils_no_other(
    client: PredictClient, exported: Exported
) -> None:
    images = [*exported.contents[:5], b"no image", *exported.contents[5:9], b"\x89PNG\r\n\x1a\n"]
    with pytest.raises(ServingError) as caught:
        client.classify(images)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "\n" not in str(caught.value)
    answers = client.classify_each(images)
    assert [isinstance(answer, ServingError) for answer in answers] == [
        at in (5, 10) for at in range(11)
    ]
    good = [answer for answer in answers if not isinstance(answer, ServingError)]
    assert [answer.label for answer in good] == [
        answer.label for answer in client.classify(exported.contents[:9])
    ]


def test_requests_as_documented_over_rest(server: Addresses, exported: Exported) -> None:
    address = f"{server['rest']}/v1/models/vaeline"
    images = exported.contents[:3]
    row = {"instances": [{names.IMAGE_BYTES: b64(image)} for image in images]}
    by_row = requests.post(f"{address}:predict", json=row, timeout=HANG_SECS).json()["predictions"]
    bare = {"instances": [b64(image) for image in images]}
    assert (
        requests.post(f"{address}:predict", json=bare, timeout=HANG_SECS).json()["predictions"]
        == by_row
    )
    column = {"inputs": {names.IMAGE_BYTES: [b64(image) for image in images]}}
    by_column = requests.post(
        f"{address}/versions/1:predict", json=column, timeout=HANG_SECS
    ).json()
    assert [entry[names.LABEL] for entry in by_row] == by_column["outputs"][names.LABEL]
    assert by_row[0][names.LABEL] in "0123456789"
    assert len(by_row[0][names.PROBABILITIES]) == 10
    standard, safe = b64(images[0])["b64"], base64.urlsafe_b64encode(b"\xff" * 3).decode()
    for text in (f"data:image/png;base64,{standard}", safe):
        refused = requests.post(
            f"{address}:predict", json={"instances": [{"b64": text}]}, timeout=HANG_SECS
        )
        assert (refused.status_code, refused.json()["error"]) == (400, "Unable to base64 decode")
    scaled = {
        "signature_name": names.EMBED_PIXELS,
        "instances": (exported.pixels[:1] / 255).tolist(),
    }
    refused = requests.post(f"{address}:predict", json=scaled, timeout=HANG_SECS)
    assert refused.status_code == 400
    assert "not of expected type: uint8" in refused.json()["error"]
    state = requests.get(address, timeout=HANG_SECS).json()["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in state] == [("1", "AVAILABLE")]


def test_predict_requests_of_the_serving_api(server: Addresses, exported: Exported) -> None:
    import grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    with grpc.insecure_channel(server["grpc"].removeprefix("grpc://")) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "vaeline"
        tensor = request.inputs[names.IMAGE_BYTES]
        tensor.dtype = tf.string.as_datatype_enum
        tensor.tensor_shape.dim.add().size = 2
        tensor.string_val.extend(exported.contents[:2])
        response = stub.Predict(request, timeout=HANG_SECS)
        assert response.model_spec.version.value == 1
        assert response.outputs[names.LABEL].dtype == tf.string.as_datatype_enum
        assert tf.make_ndarray(response.outputs[names.PROBABILITIES]).shape == (2, 10)
        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        about.model_spec.name = "vaeline"
        found = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(about, timeout=HANG_SECS).metadata["signature_def"].Unpack(found)
        image = found.signature_def["serving_default"].inputs[names.IMAGE_BYTES]
        assert (image.dtype, [dim.size for dim in image.tensor_shape.dim]) == (7, [-1])


@pytest.mark.parametrize(
    ("changes", "signature", "inputs", "codes", "message"),
    [
        ({"model": "other"}, "embed", {"image_bytes": [b""]}, {"NOT_FOUND"}, "not found"),
        ({"version": 9}, "embed", {"image_bytes": [b""]}, {"NOT_FOUND"}, "not found"),
        ({}, "nothing", {"image_bytes": [b""]}, {"FAILED_PRECONDITION", "INVALID_ARGUMENT"},
         "nothing"),
        ({}, "embed", {"pictures": [b""]}, {"INVALID_ARGUMENT"}, "pictures"),
        ({}, "embed", {"image_bytes": [b"", b""], "more": [b""]}, {"INVALID_ARGUMENT"},
         "arrays of one length"),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_one_line(
    server: Addresses, changes: dict[str, Any], signature: str, inputs: dict[str, Any],
    codes: set[str], message: str,
) -> None:  # fmt: skip
    arrays = {name: strings(values) for name, values in inputs.items()}
    for target in server.values():
        with (
            connected(target, **changes) as client,
            pytest.raises(ServingError, match=message) as caught,
        ):
            client.predict(signature, arrays)
        assert caught.value.code in codes
        assert "\n" not in str(caught.value)


MISREAD: dict[str, np.ndarray] = {
    "channels first": np.zeros([2, 3, 8, 9], np.uint8),
    "five channels": np.zeros([2, 8, 8, 5], np.uint8),
    "no channels": np.zeros([2, 8, 8, 0], np.uint8),
    "no rows": np.zeros([2, 0, 8, 1], np.uint8),
    "grey without an axis of channels": np.zeros([2, 8, 8], np.uint8),
    "one image without an axis of images": np.zeros([8, 8, 3], np.uint8),
    "flat": np.zeros([64], np.uint8),
    "a film": np.zeros([2, 4, 8, 8, 3], np.uint8),
    "scaled": np.zeros([2, 8, 8, 1], np.float32),
    "deep": np.zeros([2, 8, 8, 1], np.uint16),
    "integers": np.zeros([2, 8, 8, 1], np.int64),
}
"""Pixels that the model would misread."""
BY_PIXELS = (names.SERVING_DEFAULT_PIXELS, names.ANNOTATE_PIXELS, names.EMBED_PIXELS,
             names.SCORE_PIXELS)  # fmt: skip


def test_a_server_refuses_pixels_of_another_layout(server: Addresses) -> None:
    # The transport, because the client would not even send them.
    transport = over_grpc(server)
    for kind, array in MISREAD.items():
        for signature in BY_PIXELS:
            with pytest.raises(ServingError) as caught:
                transport.predict(signature, {names.PIXELS: array})
            text = str(caught.value)
            assert caught.value.code == "INVALID_ARGUMENT", kind
            assert "uint8" in text, kind
            if array.dtype == np.uint8:
                assert "1 to 4 channels, which come last" in text, kind
                assert f"[{' '.join(map(str, array.shape))}]" in text, kind
        if array.dtype == np.uint8 and array.size:
            request = {
                "signature_name": names.SERVING_DEFAULT_PIXELS, "instances": array.tolist()
            }  # fmt: skip
            address = f"{server['rest']}/v1/models/vaeline:predict"
            answer = requests.post(address, json=request, timeout=HANG_SECS)
            assert answer.status_code == 400, kind
            assert "1 to 4 channels, which come last" in answer.json()["error"], kind
    transport.close()


def test_a_server_refuses_what_is_no_list_of_files(server: Addresses, exported: Exported) -> None:
    transport = over_grpc(server)
    file = np.array(exported.contents[0], object)
    for array, shape in ((file, r"\[\]"), (file[np.newaxis, np.newaxis], r"\[1 1\]")):
        for signature in (names.SERVING_DEFAULT, names.EMBED):
            expected = rf"string \[n\], a list of image files; its shape is\] {shape}"
            with pytest.raises(ServingError, match=expected) as caught:
                transport.predict(signature, {names.IMAGE_BYTES: array})
            assert caught.value.code == "INVALID_ARGUMENT"
    transport.close()


def test_a_server_refuses_latent_vectors_of_another_kind(server: Addresses) -> None:
    transport = over_grpc(server)
    for latent in (
        [[0.0] * 3],
        [0.0] * 16,
        0.5,
        [[[0.0]] * 16],
        [[0.0] * 15 + [np.nan]],
        [[np.inf] * 16],
    ):
        array = np.array(latent, np.float32)
        with pytest.raises(ServingError, match=r"finite numbers, float32 \[n, 16\]") as caught:
            transport.predict(names.GENERATE, {names.LATENT: array})
        assert caught.value.code == "INVALID_ARGUMENT"
    transport.close()


def test_the_other_port_is_named(server: Addresses) -> None:
    swapped = {
        server["rest"].replace("http", "grpc"): "TF Serving's REST port takes http://",
        server["grpc"].replace("grpc", "http"): "TF Serving's gRPC port takes grpc://",
    }
    for target, hint in swapped.items():
        with (
            connected(target, attempts=1) as client,
            pytest.raises(ServingError, match=hint),
        ):
            client.signatures()


def test_pixels_of_another_layout_are_not_sent(reloaded: Reloaded) -> None:
    client = PredictClient(f"http://127.0.0.1:{free_port()}", attempts=1)
    for predictor in (client, reloaded.model):
        for array in MISREAD.values():
            with pytest.raises(ServingError, match="1 to 4 channels, which come last") as caught:
                predictor.predict(names.ANNOTATE_PIXELS, {names.PIXELS: array})
            assert caught.value.code == "INVALID_ARGUMENT"
            assert f"its shape is {list(array.shape)}, its type {array.dtype}" in str(caught.value)


def test_a_saved_model_refuses_pixels_of_another_layout(reloaded: Reloaded) -> None:
    for kind in ("channels first", "five channels", "no channels", "no rows"):
        for signature in BY_PIXELS:
            with pytest.raises(tf.errors.InvalidArgumentError, match="1 to 4 channels, which come"):
                reloaded.signatures[signature](pixels=tf.constant(MISREAD[kind]))


def test_every_number_of_channels_is_read(server: Addresses, exported: Exported) -> None:
    grey = exported.pixels[:3]
    alpha = np.full_like(grey, 255)
    layouts = (
        grey,
        np.concatenate([grey, alpha], axis=3),
        np.repeat(grey, 3, axis=3),
        np.concatenate([grey, grey, grey, alpha], axis=3),
    )
    with connected(server["grpc"]) as client:
        first, *others = (
            client.predict(names.ANNOTATE_PIXELS, {names.PIXELS: pixels}) for pixels in layouts
        )
    for other in others:
        assert_same_answers(other, first)


def test_other_inputs_than_the_models_are_one_line(reloaded: Reloaded) -> None:
    for inputs in (
        {"pictures": strings([b""])},
        {names.IMAGE_BYTES: np.zeros([2], np.float32)},
        {},
    ):
        with pytest.raises(ServingError, match="embed") as caught:
            reloaded.model.predict(names.EMBED, inputs)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_down_is_one_line(scheme: str) -> None:
    target = f"{scheme}://127.0.0.1:{free_port()}"
    with (
        PredictClient(target, attempts=3, first_pause_secs=0.01) as client,
        pytest.raises(ServingError, match=f"{target}: no answer in 3 attempts: can't c") as caught,
    ):
        client.classify([b""])
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("target", ["127.0.0.1:8500", "ftp://host", "grpc://"])
def test_what_is_no_server_is_named(target: str) -> None:
    with pytest.raises(ServingError, match="give grpc://host:8500 or http://host:8501"):
        PredictClient(target)


def test_a_full_queue_is_tried_again_and_a_deadline_is_not(exported: Exported) -> None:
    image = exported.contents[:1]
    with loopback(exported.folder.parent, fail=5, delay=1.0) as addresses:
        with connected(addresses["grpc"], attempts=3, first_pause_secs=0.01) as client:
            with pytest.raises(ServingError, match="in 3 attempts: The batch scheduling queue"):
                client.classify(image)
            # Two failures are left.
            assert len(client.classify(image)) == 1
        for target in addresses.values():
            with (
                PredictClient(target, timeout_secs=0.2) as client,
                pytest.raises(ServingError, match=r"no answer within 0\.2 s") as caught,
            ):
                client.classify(image)
            assert caught.value.code == "DEADLINE_EXCEEDED"


@on_every_server
def test_rollback_changes_what_a_server_answers_with(
    start: Start, exported: Exported, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    first = store.publish(exported.folder, PushRecord())
    with (
        start(tmp_path) as addresses,
        connected(addresses["rest"]) as client,
    ):
        until_served(client, [first.number])
        worse = tmp_path / ".worse"
        shutil.copytree(exported.folder, worse)
        second = store.publish(worse, PushRecord())
        until_served(client, [second.number])
        back = roll_back(store)
        until_served(client, [back.number])
        assert back.number > second.number
        assert len(client.classify(exported.contents[:2])) == 2


def doubles(client: PredictClient) -> bool:
    return client.predict("double", {"x": np.ones([1], np.float32)})["y"].tolist() == [2.0]


@on_every_server
def test_a_label_of_the_server_is_an_alias_of_the_store(
    start: Start, exported: Exported, tmp_path: Path
) -> None:
    other = tf.Module()
    other.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(other, str(tmp_path / "other"), signatures={"double": other.double})
    store = open_store(str(tmp_path / "pushed"))
    first = store.publish(exported.folder, PushRecord()).number
    second = store.publish(tmp_path / "other", PushRecord()).number
    set_alias(store, "champion", first)
    config = tmp_path / "config" / "models.config"
    config.parent.mkdir()
    config.write_text(model_server_config(store), encoding="utf-8")
    with start(tmp_path / "pushed", config=config) as addresses:
        for target in addresses.values():
            with connected(target, version="champion") as client:
                until_served(client, [first, second])
                assert len(client.classify(exported.contents[:2])) == 2
            with connected(target) as client:
                assert list(client.signatures()) == ["double"]
            with (
                connected(target, version="candidate") as client,
                pytest.raises(ServingError, match="version label: candidate") as caught,
            ):
                client.predict("double", {"x": np.ones([1], np.float32)})
            assert caught.value.code == "INVALID_ARGUMENT"
        set_alias(store, "candidate", second)
        config.write_text(model_server_config(store), encoding="utf-8")
        for target in addresses.values():
            with connected(target, version="candidate") as client:
                until(functools.partial(doubles, client))


def test_asking_over_rest_needs_neither_tensorflow_nor_grpc() -> None:
    code = (
        "import sys; from serving.client import PredictClient;"
        "PredictClient('http://127.0.0.1:1').close();"
        "print([m for m in ('tensorflow', 'grpc', 'keras', 'tfx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
