"""Runs the check in a separate process, and against a model server if there is one.

The executor calls `check_model`; this module does not depend on TFX.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from components.serving_check.config import ServingCheckConfig
from components.serving_check.report import CheckReport, Stage
from components.serving_check.server import check_server

_PROBE = "components.serving_check.probe"
_PROCESS = "fresh process"


def check_model(model: str, config: ServingCheckConfig) -> CheckReport:
    """Checks an exported model.

    Args:
        model: Folder of the SavedModel.
        config: The section.

    Returns:
        The report. A model that crashes or hangs the process is a failed stage.
    """
    report = _run_probe(model, config)
    if report.blessed:
        report.stages.extend(check_server(model, config))
    return report


def _run_probe(model: str, config: ServingCheckConfig) -> CheckReport:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "report.json"
        command = [sys.executable, "-m", _PROBE, model, config.model_dump_json(), str(answer)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
                capture_output=True,
                text=True,
                timeout=config.timeout_secs,
                check=False,
            )
        except subprocess.TimeoutExpired:
            fault = f"no answer in serving_check.timeout_secs = {config.timeout_secs:g}"
            return CheckReport([Stage(_PROCESS, fault)])
        if done.returncode == 0 and answer.exists():
            return CheckReport.from_json(answer.read_text(encoding="utf-8"))
        if done.returncode < 0:
            fault = f"killed by signal {-done.returncode}: the model crashes what loads it"
        else:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            fault = f"ended with {done.returncode}: {said[-1][:300]}"
        return CheckReport([Stage(_PROCESS, fault)])
