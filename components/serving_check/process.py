"""The process of the check: `python -m components.serving_check.process`.

`check.py` starts it, so that a model that crashes or eats the memory takes nothing else along.
"""

import argparse
import gc
from pathlib import Path

from components.serving_check.config import ServingCheckConfig
from trainer.quick_imports import leave_out_keras, quick_imports


def main(arguments: list[str] | None = None) -> None:
    """Checks the model that the command line names and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("config", help="the section as JSON")
    parser.add_argument("report", type=Path)
    given = parser.parse_args(arguments)
    leave_out_keras()
    with quick_imports():
        from components.serving_check.probe import run_check
    report = run_check(given.model, ServingCheckConfig.model_validate_json(given.config))
    given.report.write_text(report.to_json(), encoding="utf-8")
    # The process ends here, and takes the objects along faster than a collection would.
    gc.freeze()


if __name__ == "__main__":
    main()
