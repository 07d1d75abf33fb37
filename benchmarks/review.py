"""Whether the promise of `vaeline review` is kept, and how many images it sends to people.

    python -m benchmarks.review --data DIR [--json]

Trains on MNIST's training images and on half of the CIFAR-10 slice with `vaeline run`. Images that
the training has not seen are divided at random, many times: one half takes the place of the
calibration split, the other that of an archive. The archive is judged as a bulk job judges it, the
drift check included; then its true labels tell whether the promise holds. The same with copies of
the archive that are changed, while the first half stays as it is. And for `vaeline review mix`:
what adjusted labels gain where half the classes are thinned to a fifth, and lose where none are.
"""

import argparse
import io
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sklearn.metrics import confusion_matrix

from benchmarks.drift import CHANGES, Judged
from benchmarks.image_sets import cifar, mnist
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from components.bulk_inference.annotation.handler import Outputs
from components.bulk_inference.config import DriftConfig
from components.bulk_inference.model_card import read_card
from components.review.class_mix import adjust, estimate_mix, is_shifted, share_intervals
from components.review.promise import make_promise
from serving import names
from trainer.data.input_pipeline import ImageSet
from trainer.quality.confidence_grid import CELLS, confidence_cells

_CONFIDENCE = 0.95
_CHANGED = ("blurred", "noisy", "brighter")


@dataclass(frozen=True)
class Subject:
    """A trained model with images that it has not seen.

    Attributes:
        name: Prefix of the figures.
        model: Folder of the pushed model.
        unseen: The images with their true classes.
        risk: Share of wrong labels that the promise allows.
    """

    name: str
    model: str
    unseen: ImageSet
    risk: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    parser.add_argument("--trials", type=int, default=200, help="random divisions of each set")
    parser.add_argument("--epochs", type=int, nargs=2, default=[3, 30], help="MNIST's, CIFAR's")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for subject in (
            _mnist(options.data, Path(folder), options.epochs[0]),
            _cifar(options.data, Path(folder), options.epochs[1]),
        ):
            figures |= measure(subject, options.trials)
            figures |= measure_mix(subject, options.trials)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:40} {value:8.4f}")
    targets = {name: 0.95 for name in figures if name.endswith(("_kept", "_interval"))}
    targets |= {name: 0.001 for name in figures if name.endswith("_unshifted_loss")}
    print_record(figures, targets)


def _mnist(data: Path, folder: Path, epochs: int) -> Subject:
    archive = folder / "mnist.zip"
    train, test = mnist(data)
    write_archive(archive, train, [str(digit) for digit in range(10)])
    model = train_model("mnist", archive, folder / "mnist", epochs)
    return Subject("mnist", model, test, risk=0.005)


def _cifar(data: Path, folder: Path, epochs: int) -> Subject:
    archive = folder / "cifar.zip"
    train, test = cifar(data)
    half = len(train) - 3_000
    write_archive(archive, train.take(np.arange(half)), [f"class {number}" for number in range(10)])
    model = train_model("cifar10", archive, folder / "cifar", epochs)
    images = np.concatenate([test.images, train.images[half:]])
    labels = np.concatenate([test.labels, train.labels[half:]])
    return Subject("cifar", model, ImageSet(images, labels), risk=0.15)


def write_archive(path: Path, images: ImageSet, classes: list[str]) -> None:
    """Writes images as PNGs in a zip, in a folder for each class, numbered in their order."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
            stored = image if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            content = io.BytesIO(cv2.imencode(".png", stored)[1].tobytes())
            archive.writestr(f"{classes[label]}/{number:06d}.png", content.getvalue())


def train_model(preset: str, archive: Path, root: Path, epochs: int) -> str:
    """Runs the pipeline on an archive and returns the folder of the pushed model."""
    values = {
        "input.paths": str(archive),
        "trainer.epochs": epochs,
        # The gate runs; a few epochs need not pass a real bound.
        "evaluation.min_accuracy": 0.05,
        "evaluation.min_class_recall": None,
    }
    outcome = run_vaeline("run", "--config", preset, "--root", str(root), values=values)
    return str(outcome.result["pushed"])


def measure(subject: Subject, trials: int) -> dict[str, float]:
    """Counts kept promises over random divisions.

    Returns:
        For the images as they are and for each change: the share of trials in which the promise
        was kept or not made (`kept`), the same if the drift check is ignored (`unchecked`), and the
        share in which it was made (`made`). For the images as they are also the mean share of
        images under review (`review`), and the share that a review of images at random takes until
        as few wrong labels are left in the archive (`random_review`).
    """
    judged = Judged(subject.model, DriftConfig().alarm_rate)
    unseen = subject.unseen
    known = judged.answers(unseen.images)
    is_wrong = known[names.LABEL_INDEX] != unseen.labels
    prefix = subject.name
    figures = {f"{prefix}_error": float(is_wrong.mean()), f"{prefix}_risk": subject.risk}
    for change in ("", *_CHANGED):
        images = CHANGES[change](unseen.images) if change else unseen.images
        answers = judged.answers(images) if change else known
        found = [
            _trial(subject, judged, known, images, answers, np.random.default_rng([7, number]))
            for number in range(trials)
        ]
        part = f"{prefix}_{change}" if change else prefix
        means = {name: float(np.mean([trial[name] for trial in found])) for name in found[0]}
        figures |= {f"{part}_{name}": means[name] for name in ("kept", "unchecked", "made")}
        if not change:
            made = [trial for trial in found if trial["made"]]
            for name in ("review", "random_review") if made else ():
                figures[f"{part}_{name}"] = float(np.mean([trial[name] for trial in made]))
    return figures


def measure_mix(subject: Subject, trials: int) -> dict[str, float]:
    """Adjusts the labels of archives whose class mix is known.

    Returns:
        Over random halves of the unseen images: mean loss of accuracy (`unshifted_loss`). The same
        with half of the classes, another half each time, thinned to a fifth: mean gain of accuracy
        (`shifted_gain`), the share of 95 % intervals that hold the true share of a class
        (`interval`) and their mean width (`width`), and both if only 250 images are held out, as
        many as the calibration split of the slice has (`interval_250`, `width_250`).
    """
    judged = Judged(subject.model, DriftConfig().alarm_rate)
    answers = judged.answers(subject.unseen.images)
    posteriors = answers[names.PROBABILITIES].astype(np.float64)
    trained = np.asarray(read_card(subject.model).summaries.priors)
    predicted = posteriors.argmax(axis=1)
    labels = subject.unseen.labels
    classes = range(len(trained))
    losses, gains = [], []
    inside: dict[str, list[np.ndarray]] = {"": [], "_250": []}
    widths: dict[str, list[np.ndarray]] = {"": [], "_250": []}
    for number in range(trials):
        random = np.random.default_rng([8, number])
        half, held_out = np.array_split(random.permutation(len(labels)), 2)
        known = confusion_matrix(labels[held_out], predicted[held_out], labels=classes)
        losses.append(-_gain(posteriors[half], labels[half], trained, known))
        rare = random.permutation(len(trained))[: len(trained) // 2]
        kept = half[~np.isin(labels[half], rare) | (random.random(len(half)) < 0.2)]
        gains.append(_gain(posteriors[kept], labels[kept], trained, known))
        true = np.bincount(labels[kept], minlength=len(trained)) / len(kept)
        found = np.bincount(predicted[kept], minlength=len(trained))
        few = confusion_matrix(labels[held_out[:250]], predicted[held_out[:250]], labels=classes)
        for name, errors in (("", known), ("_250", few)):
            low, high = share_intervals(found, errors)
            stated = ~np.isnan(low)
            inside[name].append(((low <= true) & (true <= high))[stated])
            widths[name].append((high - low)[stated])
    figures = {"unshifted_loss": np.mean(losses), "shifted_gain": np.mean(gains)}
    for name in inside:
        figures[f"interval{name}"] = np.mean(np.concatenate(inside[name]))
        figures[f"width{name}"] = np.mean(np.concatenate(widths[name]))
    return {f"{subject.name}_{name}": float(value) for name, value in figures.items()}


def _gain(
    posteriors: np.ndarray, labels: np.ndarray, trained: np.ndarray, known: np.ndarray
) -> float:
    """Returns the gain of accuracy."""
    predicted = np.bincount(posteriors.argmax(axis=1), minlength=len(trained))
    if not is_shifted(predicted, known.sum(axis=0)):
        return 0.0
    estimated, _, _ = estimate_mix(posteriors, trained, predicted, known)
    adjusted = adjust(posteriors, estimated, trained)
    right = [(found.argmax(axis=1) == labels).mean() for found in (posteriors, adjusted)]
    return float(right[1] - right[0])


def _trial(
    subject: Subject,
    judged: Judged,
    known: Outputs,
    images: np.ndarray,
    answers: Outputs,
    random: np.random.Generator,
) -> dict[str, float]:
    order = random.permutation(len(images))
    held_out, archive = np.array_split(order, 2)
    labels = subject.unseen.labels
    ordinary = answers[names.VERDICT] != b"reject"
    cells = confidence_cells(answers[names.PROBABILITY])
    is_wrong = answers[names.LABEL_INDEX] != labels
    promise = make_promise(
        _binned(cells, archive[ordinary[archive]]),
        *_known(known, labels, held_out),
        risk=subject.risk,
        confidence=_CONFIDENCE,
    )
    accepted = archive[ordinary[archive] & (cells[archive] >= promise.cell)]
    holds = is_wrong[accepted].sum() <= subject.risk * len(accepted)
    alarm = judged.report(images, answers, archive).alarm
    # After a random review of a share r, (1 - r) of all wrong labels are left.
    left = is_wrong[accepted].sum() / max(is_wrong[archive].sum(), 1)
    return {
        "kept": float(holds or alarm),
        "unchecked": float(holds),
        "made": float(not promise.reason and not alarm),
        "review": 1.0 - len(accepted) / len(archive),
        "random_review": 1.0 - left,
    }


def _known(
    answers: Mapping[str, np.ndarray], labels: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    cells = confidence_cells(answers[names.PROBABILITY])
    chosen = chosen[answers[names.VERDICT][chosen] != b"reject"]
    wrong = chosen[answers[names.LABEL_INDEX][chosen] != labels[chosen]]
    return _binned(cells, chosen), _binned(cells, wrong)


def _binned(cells: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.bincount(cells[chosen], minlength=CELLS)


if __name__ == "__main__":
    main()
