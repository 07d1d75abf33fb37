"""Decides how many labels need no review, with a finite-sample bound on those that are wrong.

`queue.py` calls it. The bound compares an archive with images whose labels are known, under one
assumption: both are drawn from the same distribution, which the drift check tests.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from trainer.quality.confidence_grid import CELLS, least_confidence

_REVIEWED_SHARES: Final = np.concatenate([[0.0], np.geomspace(1e-4, 0.9, 39)])
"""Shares of images under review that are tried. Each of them takes part of the error probability,
but that costs little: of 40 shares, each needs about twice the images of a single one."""


@dataclass(frozen=True)
class Promise:
    """States which labels are accepted without review, and what they rest on.

    Attributes:
        cell: Labels with a confidence in this cell or above are accepted; `CELLS` if none are.
        accepted: Number of images with such labels.
        held_out: Images with known labels whose confidence is as high.
        wrong: Those of them whose label is wrong.
        reason: Why no label is accepted; empty if some are.
    """

    cell: int
    accepted: int
    held_out: int = 0
    wrong: int = 0
    reason: str = ""

    @property
    def threshold(self) -> float:
        """Returns the smallest accepted probability."""
        return least_confidence(self.cell)


def make_promise(
    archive: np.ndarray,
    held_out: np.ndarray,
    wrong: np.ndarray,
    *,
    risk: float,
    confidence: float,
) -> Promise:
    """Accepts as many labels as the bound on the wrong ones among them allows.

    Pool n held-out images, k of them wrong, with the M images of the archive above a threshold. If
    E of the M labels are wrong and images are exchangeable, k has a hypergeometric distribution.
    For E > risk * M its probability of being this small or smaller must be at most
    (1 - confidence) / 40, as 40 thresholds are tried (Bonferroni). Thresholds are quantiles of the
    pool, so they do not depend on which images are held out, and the bound holds for any number of
    images and any classifier. Learn then Test (Angelopoulos et al. 2021) does the same for the
    risk of a distribution; here it is the number of wrong labels in this archive.

    Args:
        archive: int [CELLS], images of the archive by cell of `confidence_grid.confidence_cells`.
        held_out: int [CELLS], the same for images with known labels that training has not seen.
        wrong: int [CELLS], those of them whose label is wrong.
        risk: Largest share of wrong labels among those accepted.
        confidence: Least probability, over held-out images and archives, that the share is kept.
    """
    pool = archive + held_out
    reviewed = np.concatenate([[0], np.cumsum(pool)])
    total = int(reviewed[-1])
    # The lowest cell below which at most this share of the pool lies.
    places = np.searchsorted(reviewed, _REVIEWED_SHARES * total, side="right") - 1
    accepted, known, failed = (_from_above(counts) for counts in (archive, held_out, wrong))
    for cell in np.unique(places):
        images, n, k = int(accepted[cell]), int(known[cell]), int(failed[cell])
        if images and _tail(k, n, images, risk) <= (1.0 - confidence) / len(_REVIEWED_SHARES):
            return Promise(int(cell), images, n, k)
    fewest = _fewest(risk, confidence)
    count = int(held_out.sum())
    if count < fewest:
        reason = (
            f"{count:,} held-out images are too few: even without a wrong label among them, a risk"
            f" of {risk:g} takes about {fewest:,}"
        )
    else:
        reason = (
            f"of {count:,} held-out images {int(wrong.sum()):,} have a wrong label, and their"
            " probabilities do not tell them apart well enough"
        )
    return Promise(CELLS, 0, reason=reason)


def promised_share(accepted: int, audited: int, audit_wrong: int, risk: float) -> float | None:
    """Bounds the share of correct labels among accepted ones that an audit did not draw.

    The promise bounds the wrong labels of all accepted images. Those that the audit did not find
    may all be among the fewer images that are left.

    Args:
        accepted: Accepted images.
        audited: Those of them that people have reviewed.
        audit_wrong: Those of the latter whose label was wrong.
        risk: Largest share of wrong labels among the accepted ones.

    Returns:
        A share in [0, 1 - risk]; None if the audit refutes the promise.
    """
    allowed = int(np.floor(risk * accepted + 1e-9))
    if audit_wrong > allowed:
        return None
    left = (allowed - audit_wrong) / max(accepted - audited, 1)
    return float(np.clip(1.0 - left, 0.0, 1.0 - risk))


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Sums counts from each cell upwards, with a zero for the place above the last cell."""
    return np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])


def _tail(wrong: int, known: int, images: int, risk: float) -> float:
    """Returns the probability of so few wrong labels among the known, if the archive has too many.

    Args:
        wrong: Wrong labels among the known ones.
        known: Number of images with known labels.
        images: Number of other images.
        risk: Share of wrong labels that is still allowed among those.
    """
    too_many = int(np.floor(risk * images + 1e-9)) + 1
    if too_many > images:
        return 0.0
    return float(stats.hypergeom.cdf(wrong, known + images, wrong + too_many, known))


def _fewest(risk: float, confidence: float) -> int:
    """Returns how many held-out images a promise takes if none of their labels is wrong."""
    level = (1.0 - confidence) / len(_REVIEWED_SHARES)
    return int(np.ceil(np.log(level) / np.log1p(-risk)))


def most_wrong(wrong: int, audited: int, images: int, confidence: float) -> int:
    """Bounds the wrong labels among images from a random sample of them and others like them.

    Args:
        wrong: Wrong labels found in the sample.
        audited: Images of the sample, drawn at random without replacement.
        images: Images that were not drawn.
        confidence: Probability that the bound holds.

    Returns:
        The largest number of wrong labels among those images that the sample does not refute: the
        exact hypergeometric bound.
    """
    low, high = 0, images
    while low < high:
        middle = (low + high + 1) // 2
        tail = stats.hypergeom.cdf(wrong, audited + images, wrong + middle, audited)
        low, high = (middle, high) if tail > 1.0 - confidence else (low, middle - 1)
    return low


def percent(share: float) -> str:
    """Formats a share as a percentage of two decimals at most, rounded down."""
    return f"{np.floor(share * 1e4 + 1e-6) / 100:g} %"
