"""Two replicas, and two workers, learn what one device alone learns.

The trainings run in fresh processes: logical devices and clusters are chosen before TensorFlow
starts, and two strategies of one process would share collective keys.
"""

import json
import pathlib

import numpy as np
import pytest

from components.serving_check.server import free_port
from tests.forked import Forked
from tests.trainer import replicas, tiny


def _start(out: pathlib.Path, mode: str, cluster: dict | None = None) -> Forked:
    environment = {"TF_CONFIG": json.dumps(cluster) if cluster else None}
    output = out.with_suffix(".txt")
    return Forked("tests.trainer.replicas", mode, str(out), output=output, environment=environment)


def _finish(process: Forked) -> None:
    assert process.wait() == 0, process.text[-2000:]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("mirrored") / "out.json"
    _finish(_start(out, "mirrored"))
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["", "_backbone"])
def test_two_replicas_have_the_losses_of_one(mirrored: dict, encoder: str) -> None:
    one, two = (np.array(mirrored[f"{kind}{encoder}"]) for kind in ("one", "two"))
    assert len(one) >= 4
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_one_device_that_computes_in_two_parts_has_the_weights_of_two_replicas(
    mirrored: dict,
) -> None:
    np.testing.assert_allclose(mirrored["one_weights"], mirrored["two_weights"], atol=1e-6)


@pytest.mark.slow
def test_noise_differs_between_replicas_and_is_that_of_one_device(mirrored: dict) -> None:
    first, second = (np.array(part) for part in mirrored["noise"]["replicas"])
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(
        np.concatenate([first, second]), np.array(mirrored["noise"]["whole"])
    )


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one(tmp_path: pathlib.Path) -> None:
    # `master` is what older training operators call the chief.
    hosts = {"master": [f"localhost:{free_port()}"], "worker": [f"localhost:{free_port()}"]}
    workers = [
        _start(
            tmp_path / f"{role}.json",
            "worker",
            {"cluster": hosts, "task": {"type": role, "index": 0}},
        )
        for role in hosts
    ]
    alone = replicas.train_everything(str(tmp_path / "alone"), "mlp", None, tiny.splits(96))
    for worker in workers:
        _finish(worker)
    results = {role: json.loads((tmp_path / f"{role}.json").read_text()) for role in hosts}
    expected = np.array(replicas.losses(alone))
    for result in results.values():
        np.testing.assert_allclose(np.array(result["losses"]), expected, rtol=1e-4, atol=1e-4)
    assert results["master"]["chief"]
    assert not results["worker"]["chief"]
    assert results["master"]["digest"] == results["worker"]["digest"]
    assert (tmp_path / "work" / "history.json").exists()
