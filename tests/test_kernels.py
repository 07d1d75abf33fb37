"""The numeric contract (docs/numerics.md) on the kernels of other processors, in fresh processes.

Environment variables make TensorFlow use the kernels that it would use on an older processor, or on
one of another maker. What is promised bit for bit has to be so under each of them; everything else
has to stay within the tolerance under each, and from one to the next.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import kernels
from tests.components.bulk_inference.model_fixture import export_model
from tests.kernels import BATCHES, IMAGES
from tests.limits import HANG_SECS
from tests.numeric import assert_same_answers

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "as they are": {},
    "Eigen": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "SSE 4.1, one thread": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    },
}
pytestmark = pytest.mark.slow

Answers = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    """What each setting computes."""
    folder = tmp_path_factory.mktemp("kernels")
    model = export_model(folder / "model")

    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ONEDNN_")}
    inherited |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: dict[str, Answers] = {}
    for number, (name, variables) in enumerate(SETTINGS.items()):
        out = folder / f"{number}.npz"
        if variables:
            done = subprocess.run(
                [sys.executable, "-m", "tests.kernels", str(model), str(out)],
                cwd=ROOT,
                env=inherited | variables,
                capture_output=True,
                text=True,
                timeout=HANG_SECS,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-2000:]
            with np.load(out) as arrays:
                found[name] = dict(arrays)
        else:
            # In this process, which has imported TensorFlow.
            found[name] = {**kernels.networks(), **kernels.bulk(str(model))}
    return found


def part(answers: Answers, prefix: str) -> Answers:
    return {
        key.removeprefix(f"{prefix}/"): value
        for key, value in answers.items()
        if key.startswith(f"{prefix}/")
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_image_gets_the_same_answer_in_every_batch(
    answers: dict[str, Answers], setting: str
) -> None:
    for kind in ("mlp", "conv", "bulk"):
        whole = part(answers[setting], f"{kind} in {IMAGES}")
        assert len(whole) >= 4
        for size in BATCHES:
            assert_same_answers(part(answers[setting], f"{kind} in {size}"), whole)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_call_gives_the_same_bits(answers: dict[str, Answers], setting: str) -> None:
    again = part(answers[setting], "bulk in again")
    for name, values in part(answers[setting], f"bulk in {IMAGES}").items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


# As they are, trainer/test_resume.py kills the same training.
@pytest.mark.parametrize("setting", list(SETTINGS)[1:])
def test_a_resumed_training_ends_with_the_same_bits(
    answers: dict[str, Answers], setting: str
) -> None:
    weights = part(answers[setting], "training")
    np.testing.assert_array_equal(weights["resumed"], weights["whole"])


@pytest.mark.parametrize("setting", list(SETTINGS)[1:])
def test_kernels_agree(answers: dict[str, Answers], setting: str) -> None:
    for kind in ("mlp", "conv", "bulk"):
        expected = part(answers["as they are"], f"{kind} in {IMAGES}")
        assert_same_answers(part(answers[setting], f"{kind} in {IMAGES}"), expected)
