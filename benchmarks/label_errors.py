"""How many wrong labels of an archive come first in the ranking of `vaeline review labels`.

    python -m benchmarks.label_errors --data DIR [--json]

One in twenty labels of MNIST's training images and of the CIFAR-10 slice is changed at random; the
pipeline trains on these archives, the bulk job classifies them, and the ranking is compared with
the truth. Where cleanlab is installed (`pip install cleanlab`), its `find_label_issues` and its
label quality scores get the same out-of-fold probabilities.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.image_sets import cifar, mnist
from benchmarks.record import print_record
from benchmarks.review import train_model, write_archive
from benchmarks.vaeline_command import run_vaeline
from components.review import label_errors
from components.review.labelled_archive import LabelledArchive
from trainer.data.input_pipeline import ImageSet

_WRONG = 0.05
_FIRST = 0.06
_CLASSES = [f"class {number}" for number in range(10)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument("--seed", type=int, default=3, help="of the choice of wrong labels")
    parser.add_argument("--epochs", type=int, nargs=2, default=[3, 10], help="MNIST's, CIFAR's")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    digits, _ = mnist(options.data)
    train, test = cifar(options.data)
    photos = ImageSet(
        np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels])
    )
    sets = (("mnist", "mnist", digits), ("cifar", "cifar10", photos))
    with tempfile.TemporaryDirectory() as folder:
        for (name, preset, images), epochs in zip(sets, options.epochs, strict=True):
            found = measure(preset, images, Path(folder) / name, epochs, options.seed)
            figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    if not options.json:
        for name, value in figures.items():
            print(f"{name:40} {value:8.4f}")
    targets = {"mnist_found": 0.95}
    if "cifar_cleanlab_issues" in figures:
        targets["cifar_average_precision"] = figures["cifar_cleanlab_issues"]
    print_record(figures, targets)


def measure(
    preset: str, images: ImageSet, folder: Path, epochs: int, seed: int
) -> dict[str, float]:
    """Changes labels, trains, classifies and ranks.

    Returns:
        `found`: share of the wrong labels among the first 6 % of the list. `average_precision` of
        the ranking. `suggested`: share of the wrong labels whose right one is suggested.
        `estimated` over the true number of wrong labels. `seconds` of the ranking. Of cleanlab, if
        it is installed, the average precision of its issues (`cleanlab_issues`, the better of two
        orders) and of its quality scores (`cleanlab_scores`).
    """
    folder.mkdir()
    random = np.random.default_rng(seed)
    flips = random.permutation(len(images))[: round(_WRONG * len(images))]
    given = images.labels.copy()
    given[flips] = (given[flips] + random.integers(1, 10, len(flips))) % 10
    archive = folder / "images.zip"
    write_archive(archive, ImageSet(images.images, given), _CLASSES)
    model = train_model(preset, archive, folder / "run", epochs)
    output = folder / "labelled"
    run_vaeline("classify", str(archive), "--model", model, "--output", str(output))
    begin = time.perf_counter()
    found = label_errors.find_label_errors(LabelledArchive(str(output)))
    seconds = time.perf_counter() - begin
    order = _numbers(found.rows["member"].to_pylist())
    is_wrong = (given != images.labels)[order]
    suggested = np.array([_CLASSES.index(name) for name in found.rows["suggested"].to_pylist()])
    score = found.rows["score"].to_numpy()
    figures = {
        "found": float(is_wrong[: round(_FIRST * len(order))].sum() / is_wrong.sum()),
        "average_precision": float(average_precision_score(is_wrong, score)),
        "suggested": float((suggested == images.labels[order])[is_wrong].mean()),
        "estimated": found.estimated / int(is_wrong.sum()),
        "seconds": seconds,
    }
    return figures | _cleanlab(LabelledArchive(str(output)), given, images.labels)


def _numbers(members: list[str]) -> np.ndarray:
    return np.array([int(name.rpartition("/")[2].partition(".")[0]) for name in members])


def _cleanlab(archive: LabelledArchive, given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Ranks the labels with cleanlab, from our out-of-fold probabilities."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    labels = label_errors.predict_out_of_fold(
        *label_errors.read_given_labels(archive), len(_CLASSES)
    )
    order = _numbers(labels.facts["member"].to_pylist())
    is_wrong = (given != true)[order]
    best = 0.0
    for ranked_by in ("self_confidence", "normalized_margin"):
        issues = find_label_issues(
            labels.label, labels.probabilities, return_indices_ranked_by=ranked_by, n_jobs=1
        )
        score = np.zeros(len(order))
        score[issues] = np.arange(len(issues), 0, -1)
        best = max(best, float(average_precision_score(is_wrong, score)))
    quality = get_label_quality_scores(labels.label, labels.probabilities)
    return {
        "cleanlab_issues": best,
        "cleanlab_scores": float(average_precision_score(is_wrong, -quality)),
    }


if __name__ == "__main__":
    main()
