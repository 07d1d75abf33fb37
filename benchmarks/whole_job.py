"""Our side of `benchmarks/pipeline.py`: pipeline and bulk job in one process, one epoch."""

import json
import sys
from pathlib import Path

from pipeline.config import load_config, parse_bulk
from pipeline.console import Terminal, quiet_teardown
from pipeline.jobs import train_and_push
from pipeline.labelling import classify_archives


def main(archive: str, root: str, image_shape: str, report: str) -> None:
    """Runs both jobs and writes seconds by step into the file `report`."""
    height, width, channels = json.loads(image_shape)
    folder = Path(root)
    config = load_config(
        "mnist",
        root=folder,
        overrides=[
            f"input.paths={json.dumps(archive)}",
            f"image={{height: {height}, width: {width}, channels: {channels}}}",
            "trainer.epochs=1",
            # The gate runs; one epoch need not pass a real bound.
            "evaluation.min_accuracy=0.05",
            "evaluation.min_class_recall=null",
        ],
    )
    terminal = Terminal()
    outcome = train_and_push(terminal, config, root=folder)
    bulk = parse_bulk(
        {
            "input": {"paths": archive},
            "model": outcome.pushed,
            "output": str(folder / "labelled"),
        }
    )
    labelling = classify_archives(terminal, bulk, logs=folder)
    seconds = {name: step["seconds"] for name, step in outcome.steps.items()}
    seconds["classify"] = labelling["seconds"]
    Path(report).write_text(json.dumps(seconds), encoding="utf-8")
    # As the command ends.
    quiet_teardown()


if __name__ == "__main__":
    main(*sys.argv[1:])
