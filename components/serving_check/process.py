"""The process of the check: `python -m components.serving_check.process`.

`check.py` starts it, so that a model that crashes or eats the memory takes nothing else along. The
model is named on its standard input, so that it can be started before there is one.
"""

import gc
import json
import sys
from pathlib import Path

from components.parent_process import end_with_parent
from components.serving_check.config import ServingCheckConfig
from trainer.quick_imports import leave_out_keras, quick_imports


def main() -> None:
    """Checks the model that a line of JSON names, with its options, and writes the report."""
    end_with_parent()
    leave_out_keras()
    with quick_imports():
        from components.serving_check.probe import run_check
    line = sys.stdin.readline()
    if not line:
        return  # The run has ended without a model to check.
    model, options, path = json.loads(line)
    report = run_check(model, ServingCheckConfig.model_validate(options))
    Path(path).write_text(report.to_json(), encoding="utf-8")
    # The process ends here, and takes the objects along faster than a collection would.
    gc.freeze()


if __name__ == "__main__":
    main()
