"""Peak memory of each step of a run on large photographs, in both settings of `input.store`.

    python -m benchmarks.photos_memory [--data DIR] [--photos 300] [--megapixels 12] [--json]

The preset `photos` for one epoch, one step at a time, on JPEGs that the benchmark makes.

- `peak_mib_STORE`: memory of the largest process, in the step that needs most, without the pages of
  files, which are page cache.
- `peak_mib_STORE_STEP`: the same of each step. The steps share a process, so that what one leaves
  behind counts for the next.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.photos import SIZES, make_archive
from benchmarks.pipeline_scale import steps_of
from benchmarks.record import print_record
from benchmarks.vaeline_command import run_vaeline

_MOST_MIB: Final = 1536.0


def main() -> None:
    """Measures and prints, or writes, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder to keep the photos in")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--megapixels", type=int, default=12, choices=SIZES)
    parser.add_argument("--json", action="store_true", help="print nothing but the record")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-photos-memory-") as name:
        kept = options.data or Path(name)
        kept.mkdir(parents=True, exist_ok=True)
        archive = make_archive(kept, options.photos, options.megapixels)
        for store in ("auto", "original"):
            steps = peaks(archive, Path(name) / store, store)
            figures |= {f"peak_mib_{store}_{step}": peak for step, peak in steps.items()}
            figures[f"peak_mib_{store}"] = max(steps.values())
            if not options.json:
                for step, peak in steps.items():
                    print(f"{store:12}{step:24}{peak:8,.0f} MiB", flush=True)
    print_record(figures, {"peak_mib_auto": _MOST_MIB, "peak_mib_original": _MOST_MIB})


def peaks(archive: Path, root: Path, store: str) -> dict[str, float]:
    """Runs the pipeline and returns the peak of the largest process in each step, MiB."""
    outcome = run_vaeline(
        "run", "--config", "photos", "--root", str(root),
        values={
            "input.paths": str(archive),
            "input.store": store,
            "trainer.epochs": 1,
            # The gate runs; one epoch need not pass a real bound.
            "evaluation.min_accuracy": 0.01,
            "evaluation.min_class_recall": None,
            "parallel_steps": 1,
        },
    )  # fmt: skip
    return {step: cost.largest_mib for step, cost in steps_of(root, outcome.samples)}


if __name__ == "__main__":
    main()
