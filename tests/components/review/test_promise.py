"""The promise: kept as often as it says, for classifiers of any calibration, and worth having."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.review.promise import Promise, make_promise, most_wrong, percent, promised_share
from trainer.quality.confidence_grid import CELLS, confidence_cells


def binned(cells: np.ndarray) -> np.ndarray:
    return np.bincount(cells, minlength=CELLS)


def one_trial(
    random: np.random.Generator, held_out: int, images: int, risk: float, *, honest: float
) -> tuple[Promise, bool, float]:
    """The promise, whether the archive keeps it, and the share that is accepted."""
    probability = 1.0 - 0.9 * random.beta(0.05, 1.5, held_out + images)
    wrong = random.random(held_out + images) > probability**honest
    cells = confidence_cells(probability.astype(np.float32))
    promise = make_promise(
        binned(cells[held_out:]),
        binned(cells[:held_out]),
        binned(cells[:held_out][wrong[:held_out]]),
        risk=risk,
        confidence=0.95,
    )
    accepted = cells[held_out:] >= promise.cell
    assert promise.accepted == accepted.sum()
    kept = wrong[held_out:][accepted].sum() <= risk * max(accepted.sum(), 1)
    return promise, bool(kept), accepted.mean()


@pytest.mark.parametrize(
    ("held_out", "images", "risk", "honest"),
    [
        (3_000, 10_000, 0.01, 1.0),
        (1_000, 500, 0.02, 1.0),
        (3_000, 3_000, 0.02, 3.0),  # probabilities that are far too high
    ],
)
def test_the_promise_is_kept(held_out: int, images: int, risk: float, honest: float) -> None:
    random = np.random.default_rng(0)
    trials = [one_trial(random, held_out, images, risk, honest=honest) for _ in range(200)]
    made = [trial for trial in trials if not trial[0].reason]
    assert len(made) > 100
    # 200 trials at a rate of 5 % have more than 17 failures once in fifty suites.
    assert sum(not kept for _, kept, _ in trials) <= 17
    assert np.mean([share for *_, share in made]) > 0.3


def test_an_audit_leaves_the_wrong_labels_that_it_did_not_find_among_fewer_images() -> None:
    # At most 5 of 100 labels are wrong; half of them are reviewed.
    assert promised_share(100, 0, 0, 0.05) == pytest.approx(0.95)
    assert promised_share(100, 50, 0, 0.05) == pytest.approx(0.9)
    assert promised_share(100, 50, 2, 0.05) == pytest.approx(0.94)
    # An audit that finds many does not make the promise larger.
    assert promised_share(100, 50, 5, 0.05) == pytest.approx(0.95)
    assert promised_share(100, 50, 6, 0.05) is None
    assert promised_share(100, 98, 0, 0.05) == pytest.approx(0.0)
    assert promised_share(100, 100, 0, 0.05) is not None


def test_the_same_images_give_the_same_promise() -> None:
    first, second = (
        one_trial(np.random.default_rng(5), 3_000, 9_000, 0.01, honest=1.0)[0] for _ in range(2)
    )
    assert first == second
    assert first.held_out > 0


def test_with_few_held_out_images_nothing_is_promised() -> None:
    counts = np.zeros(CELLS, int)
    counts[CELLS - 1] = 100_000
    known = np.zeros(CELLS, int)
    known[CELLS - 1] = 200
    promise = make_promise(counts, known, np.zeros(CELLS, int), risk=0.01, confidence=0.95)
    assert promise.accepted == 0
    assert "200 held-out images are too few" in promise.reason
    assert "about 666" in promise.reason
    # ln(0.05 / 40) / ln(0.99)
    assert math.ceil(math.log(0.05 / 40) / math.log(0.99)) == 666


def test_with_certain_but_wrong_labels_nothing_is_promised() -> None:
    counts = np.zeros(CELLS, int)
    counts[CELLS - 1] = 5_000
    wrong = counts // 20
    promise = make_promise(counts, counts, wrong, risk=0.01, confidence=0.95)
    assert promise.accepted == 0
    assert "of 5,000 held-out images 250 have a wrong label" in promise.reason


def test_a_large_held_out_set_without_an_error_accepts_everything() -> None:
    cells = confidence_cells(np.random.default_rng(0).uniform(0.5, 1.0, 9_000))
    promise = make_promise(
        binned(cells[:4_000]),
        binned(cells[4_000:]),
        np.zeros(CELLS, int),
        risk=0.01,
        confidence=0.95,
    )
    assert (promise.accepted, promise.reason) == (4_000, "")
    assert promise.threshold <= 0.51


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=50))
def test_cells_keep_the_order_of_probabilities(values: list[float]) -> None:
    ordered = np.sort(np.array(values, np.float32))
    cells = confidence_cells(ordered)
    assert (np.diff(cells) >= 0).all()
    assert cells.min() >= 0
    assert cells.max() < CELLS


def test_cells_separate_probabilities_near_one() -> None:
    cells = confidence_cells(np.array([0.999, 0.9999, 0.99999, 1.0, np.nan], np.float32))
    assert len(set(cells.tolist())) == 5
    assert cells[-1] == 0


def test_a_threshold_is_the_lowest_probability_of_its_cell() -> None:
    values = np.random.default_rng(1).uniform(0.01, 0.9999, 1_000)
    lowest = np.array([Promise(int(cell), 1).threshold for cell in confidence_cells(values)])
    assert (lowest <= values + 1e-12).all()
    assert (confidence_cells(lowest + 1e-9) == confidence_cells(values)).all()


def test_the_audit_bound_is_that_of_all_samples() -> None:
    """Against the enumeration of all samples of 4 of 8 images, of which `total` are wrong."""

    def chance(wrong: int, total: int) -> float:
        found = [sum(at < total for at in sample) for sample in itertools.combinations(range(8), 4)]
        return sum(count <= wrong for count in found) / len(found)

    for wrong in range(5):
        expected = max((left for left in range(5) if chance(wrong, wrong + left) > 0.05), default=0)
        assert most_wrong(wrong, 4, 4, 0.95) == expected


def test_the_audit_bound_shrinks_with_the_sample() -> None:
    # The rule of three: none wrong of n leaves about 3 / n.
    assert most_wrong(0, 300, 1_000_000, 0.95) == pytest.approx(1_000_000 * 3 / 300, rel=0.01)
    assert most_wrong(0, 3_000, 1_000_000, 0.95) < 1_100
    assert most_wrong(3, 100, 0, 0.95) == 0


def test_percentages_are_rounded_down() -> None:
    assert [percent(share) for share in (0.99, 0.98765, 1.0, 0.95)] == [
        "99 %",
        "98.76 %",
        "100 %",
        "95 %",
    ]
