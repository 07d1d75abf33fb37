"""Starts a step in its container on Kubeflow or Vertex; the compiler names it in the specification.

All attempts of a step get the same output folders, and some of TFX's steps fail in a folder that is
not empty. Therefore `python -m pipeline.orchestration.step_entry` removes what an earlier attempt
left, and then runs TFX's entry with the same arguments, with batches bounded by bytes.
"""

import json
import runpy
import sys
from collections.abc import Sequence
from typing import Final

from pipeline.step_memory import batch_by_bytes
from trainer.storage import files

TFX_ENTRY: Final = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
_EXECUTOR_INPUT: Final = "--json_serialized_invocation_args"


def main() -> None:
    """Runs the step that the command line describes."""
    clear_outputs(sys.argv)
    batch_by_bytes()
    runpy.run_module(TFX_ENTRY, run_name="__main__", alter_sys=True)


def clear_outputs(arguments: Sequence[str]) -> None:
    """Removes the outputs of an earlier attempt; they belong to this execution alone.

    Args:
        arguments: The arguments of TFX's entry, with the platform's ExecutorInput as JSON.
    """
    outputs = json.loads(arguments[arguments.index(_EXECUTOR_INPUT) + 1]).get("outputs", {})
    for entry in outputs.get("artifacts", {}).values():
        for artifact in entry["artifacts"]:
            files.remove(artifact["uri"])
    # TFX takes parameters in this file for those of a driver.
    if file := outputs.get("outputFile"):
        files.remove(file)


if __name__ == "__main__":
    main()
