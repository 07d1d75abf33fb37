"""The numeric contract's arithmetic: which differences count, and how much."""

import numpy as np
import pytest

from serving.tolerance import SAME_PIXELS, differences, same_answers


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (0.5, 0.5, 0.0),
        (0.5, 0.25, 0.25),
        (-220.0, -200.0, 0.1),
        (np.nan, np.nan, 0.0),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.inf),
        (np.inf, np.inf, 0.0),
        (np.inf, 1.0, np.inf),
    ],
)
def test_differences_are_absolute_below_1_and_relative_above(
    found: float, expected: float, difference: float
) -> None:
    assert differences(np.float32(found), np.float32(expected)) == pytest.approx(difference)
    two = differences(np.array([found, 0]), np.array([expected, 0]))
    assert two == pytest.approx([difference, 0.0])


def test_answers_to_other_pixels_are_told_from_rounding() -> None:
    answer = {"elbo": np.array([-200.0, -90.0], np.float32), "label": np.array(["a", "b"])}
    rounded = {**answer, "elbo": answer["elbo"] * np.float32(1 + 1e-6)}
    assert same_answers(rounded, answer)
    assert not same_answers({**answer, "elbo": answer["elbo"] + 200 * 2 * SAME_PIXELS}, answer)
    assert not same_answers({**answer, "label": np.array(["a", "c"])}, answer)
    assert not same_answers({**answer, "elbo": np.array([np.nan, -90.0], np.float32)}, answer)
