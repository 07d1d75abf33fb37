"""The command of a step's container: what an earlier attempt left is gone before TFX starts."""

import json
from pathlib import Path

from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from pipeline.orchestration import step_entry


def test_the_entry_goes_on_with_that_of_tfx() -> None:
    assert ("python", "-m", step_entry.TFX_ENTRY) == kubeflow_v2_dag_runner.KUBEFLOW_TFX_CMD


def test_an_attempt_starts_without_what_the_last_one_left(tmp_path: Path) -> None:
    left, kept, result = tmp_path / "graph", tmp_path / "examples", tmp_path / "output.json"
    for folder in (left, kept):
        (folder / "part").mkdir(parents=True)
        (folder / "part" / "data").write_text("half")
    result.write_text("{}")
    executor_input = {
        "inputs": {"artifacts": {"examples": {"artifacts": [{"uri": str(kept)}]}}},
        "outputs": {
            "artifacts": {"graph": {"artifacts": [{"uri": str(left)}]}},
            "outputFile": str(result),
        },
    }
    step_entry.clear_outputs(["--json_serialized_invocation_args", json.dumps(executor_input)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples"]
    assert (kept / "part" / "data").is_file()
