"""What the client makes of answers that are none of a pushed model; needs no TensorFlow."""

import http.server
import json
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from serving import names
from serving.client import PredictClient
from serving.predictions import ServingError, as_array, classify, classify_each


def test_a_model_that_cannot_answer_is_asked_once() -> None:
    calls: list[str] = []

    class Old:
        """A model of an earlier release, whose signature has no verdict."""

        def predict(
            self, signature: str, inputs: Mapping[str, np.ndarray]
        ) -> dict[str, np.ndarray]:
            calls.append(signature)
            return {names.LABEL: np.array([b"a"] * len(inputs[names.IMAGE_BYTES]), object)}

    with pytest.raises(ServingError, match=r"lacks probability, .*, verdict: ") as caught:
        classify_each(Old(), [b"1", b"2"])
    assert caught.value.code == "FAILED_PRECONDITION"
    assert len(calls) == 1


@pytest.mark.parametrize("images", [b"one file", "photo.png", ["photo.png"]])
def test_names_and_one_file_are_no_list_of_files(images: Any) -> None:
    # Bytes are a sequence, too: of as many images as the file has bytes.
    for ask in (classify, classify_each):
        with pytest.raises(TypeError, match="a list of the contents of image files"):
            ask(None, images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"<html>", "HTTP 200 OK, and the answer is not TF Serving's; check the address"),
        (404, b"Not Found", "HTTP 404 Not Found, and the answer is not TF Serving's"),
        (413, b"<html>", "HTTP 413 .*: a proxy before the server refuses"),
        (400, b"<html>", "HTTP 400 Bad Request, and the answer is not TF Serving's"),
        (400, b'{"error": "Malformed request: GET /v1/x"}', "Malformed request: GET /v1/x"),
        (200, None, "the answer broke off"),
    ],
)
def test_what_is_no_answer_of_tf_serving_is_named(
    status: int, content: bytes | None, message: str
) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(99 if content is None else len(content)))
            self.end_headers()
            self.wfile.write(content or b"{")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with (
            PredictClient(f"http://127.0.0.1:{server.server_port}") as client,
            pytest.raises(ServingError, match=f"{server.server_port}: {message}"),
        ):
            # Once for all images, because they are not to blame.
            classify_each(client, [b"1", b"2"])


def test_a_server_without_a_certificate_and_a_missing_proxy_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with (
            PredictClient(f"https://127.0.0.1:{server.server_port}") as client,
            pytest.raises(ServingError, match=r"no encrypted connection: .*; give http://"),
        ):
            client.signatures()
        unused = server.server_port
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with (
        PredictClient("http://models.invalid:8501", attempts=1) as client,
        pytest.raises(ServingError, match="can't connect to the proxy"),
    ):
        client.signatures()


def test_the_address_of_a_model_is_not_that_of_its_server() -> None:
    for path in ("", ":predict", "/versions/7"):
        address = f"https://host/prefix/v1/models/vaeline{path}"
        with pytest.raises(ServingError, match="give that of the server, https://host/prefix, "):
            PredictClient(address)


def test_inputs_of_everyday_kinds_over_rest() -> None:
    shape = {"dim": [{"size": "-1"}, {"size": "16"}], "unknown_rank": False}
    embed = {"inputs": {}, "outputs": {"embedding": {"dtype": "DT_FLOAT", "tensor_shape": shape}}}
    found = {"metadata": {"signature_def": {"signature_def": {names.EMBED: embed}}}}

    class Server(http.server.BaseHTTPRequestHandler):
        def answer(self, value: Any) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_GET(self) -> None:
            self.answer(found)

        def do_POST(self) -> None:
            self.answer({"outputs": []})

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with PredictClient(f"http://127.0.0.1:{server.server_port}") as client:
            # As over gRPC.
            none = client.predict(names.EMBED, {names.IMAGE_BYTES: []})
            assert none["embedding"].shape == (0, 16)
            for inputs, message in (
                ({names.IMAGE_BYTES: b"one file"}, r"lists or arrays .* image_bytes of shape \(\)"),
                ({names.LATENT: [[np.nan]]}, "latent has NaN or infinite numbers"),
            ):
                with pytest.raises(ServingError, match=message) as caught:
                    client.predict(names.EMBED, inputs)
                assert caught.value.code == "INVALID_ARGUMENT"
        server.shutdown()


def test_bytes_keep_the_zeros_at_their_ends() -> None:
    for value in ([b"BM\0\0", b"1"], np.array([b"BM\0\0", b"1"], object)):
        assert as_array(value).tolist() == [b"BM\0\0", b"1"]
    assert as_array([1, 2]).dtype.kind == "i"
