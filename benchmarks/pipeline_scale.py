"""Seconds and memory of each step of the whole run, on one archive and on many copies of it.

    python -m benchmarks.pipeline_scale --data DIR [--sizes N ...] [--json]

`DIR` holds `mnist_png.zip`. The larger archives are the same one under other names, whose copies
`input.duplicates: keep` keeps. Every size runs in fresh processes: `vaeline run`, ingest to push,
with one step at a time and as many training steps as one epoch of the single archive has, then
`vaeline classify` over all images with the pushed model.

- `memory_ratio`: the largest ratio, over the steps, of the peak memory at the largest size to that
  at the smallest. Memory is that of the step's process tree without pages of files. The steps share
  a process, so that what one leaves behind counts for the next.
- `seconds_ratio_per_image`: seconds per image at the largest size over those at the size before it;
  `cpu_ratio_per_image` the same with processor time, which other work on the machine hardly
  changes.
"""

import argparse
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.process_tree import Sample
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline
from pipeline.runs.store import latest_run

_SIZES: Final = (70_000, 350_000, 1_050_000)
_TARGETS: Final = {"memory_ratio": 1.2, "seconds_ratio_per_image": 1.1}
_LEAST_SECS: Final = 0.3
"""Wall time below which a step has too few samples for a row of its own."""


class Cost(NamedTuple):
    """What a step took.

    Attributes:
        seconds: wall time.
        cpu_seconds: user and system time of all its processes.
        peak_mib: peak memory without pages of files.
        resident_mib: peak memory with them.
        largest_mib: peak memory of the largest process, without pages of files.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    resident_mib: float
    largest_mib: float


def main() -> None:
    """Runs all sizes and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist_png.zip")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of images")
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    archive = (options.data / "mnist_png.zip").resolve()
    with zipfile.ZipFile(archive) as opened:
        each = sum(not name.endswith("/") for name in opened.namelist())
    costs: dict[int, dict[str, Cost]] = {}
    figures: dict[str, float] = {}
    for size in sorted(options.sizes):
        copies = max(1, round(size / each))
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
            costs[copies * each], trained = measure(archive, copies, Path(folder))
        figures[f"training_steps_{copies * each}"] = trained
        if not options.json:
            print("\n".join(table(costs)), flush=True)
    print_record(figures | summary(costs), _TARGETS if len(costs) > 1 else {})


def measure(archive: Path, copies: int, folder: Path) -> tuple[dict[str, Cost], int]:
    """Runs both commands on copies of an archive.

    Returns:
        The costs by step, and the number of training steps.
    """
    archives = folder / "archives"
    archives.mkdir()
    for copy in range(copies):
        (archives / f"copy_{copy:03d}{archive.suffix}").symlink_to(archive)
    paths, root = str(archives / "copy_*"), folder / "root"
    epochs = 1 / copies
    training = run_vaeline(
        "run", "--config", "mnist", "--root", str(root),
        values={
            "input.paths": paths,
            "input.duplicates": "keep",
            "trainer.epochs": epochs,
            "trainer.evaluate_every_epochs": epochs,
            "trainer.optimizer.warmup_epochs": 0,
            # The gate runs; one epoch need not pass a real bound.
            "evaluation.min_accuracy": 0.05,
            "evaluation.min_class_recall": None,
            "parallel_steps": 1,
        },
    )  # fmt: skip
    model = training.result["pushed"]
    card = json.loads((Path(model) / "assets.extra" / "model.json").read_text(encoding="utf-8"))
    labelling = run_vaeline(
        "classify", paths, "--model", model, "--output", str(folder / "labelled")
    )
    costs = dict(steps_of(root, training.samples))
    costs["whole run"] = cost(training.samples, training.seconds)
    costs["classify"] = cost(labelling.samples, labelling.seconds)
    return costs, card["steps"]


def steps_of(root: Path, samples: list[Sample]) -> Iterator[tuple[str, Cost]]:
    """Yields the name and costs of each step of the run, and of the time before and after them."""
    steps = sorted(latest_run(root).steps.values(), key=lambda step: step.started)
    first, last = steps[0].started, max(step.started + step.seconds for step in steps)
    yield "imports", between(samples, samples[0].time, first)
    for step in steps:
        if step.seconds >= _LEAST_SECS:
            yield step.name, between(samples, step.started, step.started + step.seconds)
    yield "report", between(samples, last, samples[-1].time)


def between(samples: list[Sample], begin: float, end: float) -> Cost:
    """Returns the costs of an interval, from the samples inside it and the ones next to it."""
    before = [place for place, sample in enumerate(samples) if sample.time <= begin]
    after = [place for place, sample in enumerate(samples) if sample.time >= end]
    inside = samples[before[-1] if before else 0 : (after[0] if after else len(samples)) + 1]
    return cost(inside, end - begin)


def cost(samples: list[Sample], seconds: float) -> Cost:
    """Returns the costs of all samples."""
    return Cost(
        seconds,
        samples[-1].cpu_seconds - samples[0].cpu_seconds,
        max(sample.own_mib for sample in samples),
        max(sample.resident_mib for sample in samples),
        max(sample.largest_mib for sample in samples),
    )


def table(costs: dict[int, dict[str, Cost]]) -> Iterator[str]:
    """Yields the lines of a Markdown table: wall seconds, processor seconds, MiB of each size."""
    yield f"| step | {' | '.join(f'{size:,} images' for size in costs)} |"
    yield "| --- |" + " --- |" * len(costs)
    for step in list(costs.values())[-1]:
        cells = [
            f"{found.seconds:.1f} s, {found.cpu_seconds:.1f} s CPU, {found.peak_mib:,.0f} MiB"
            if (found := measured.get(step))
            else ""
            for measured in costs.values()
        ]
        yield f"| {step} | {' | '.join(cells)} |"


def summary(costs: dict[int, dict[str, Cost]]) -> dict[str, float]:
    """Returns all costs by step and size, and the ratios."""
    figures = {
        f"{figure}_{step.replace(' ', '_')}_{size}": value
        for size, measured in costs.items()
        for step, found in measured.items()
        for figure, value in found._asdict().items()
    }
    if len(costs) < 2:
        return figures
    *_, middle, largest = costs
    small, large = costs[min(costs)], costs[largest]
    ratios = {
        f"memory_ratio_{step.replace(' ', '_')}": large[step].peak_mib / small[step].peak_mib
        for step in large
        if step in small
    }
    figures |= ratios
    figures["memory_ratio"] = max(ratios.values())
    for figure in ("seconds", "cpu_seconds"):
        per_image = {
            size: sum(getattr(costs[size][job], figure) for job in ("whole run", "classify")) / size
            for size in (middle, largest)
        }
        name = f"{figure.removesuffix('_seconds')}_ratio_per_image"
        figures[name] = per_image[largest] / per_image[middle]
    return figures


if __name__ == "__main__":
    main()
