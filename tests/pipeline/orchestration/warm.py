"""Runs container commands of steps in forks of one process that has imported TFX already.

`python -m tests.pipeline.orchestration.warm`: reads a JSON object with `argv`, `log`,
`environment` and `kill_at` per line, answers with the exit status. A fork is a process of its own;
only the 14 s of imports are shared. With `kill_at`, SIGKILL is sent when the log holds that text.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.forked import run_as_program
from trainer.quick_imports import quick_imports


def main() -> None:
    with quick_imports():
        import tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor  # noqa: F401

        import pipeline.run_fn  # noqa: F401
        from components import tfx_api  # noqa: F401

    assert "google.cloud.aiplatform" not in sys.modules, "components/tfx_api.py keeps it out"
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ.update(request["environment"])
            # The command is `python -m MODULE ARGUMENTS...`.
            _, _, module, *arguments = request["argv"]
            run_as_program(module, arguments, request["log"])
        if request["kill_at"]:
            _kill_at(child, Path(request["log"]), request["kill_at"].encode())
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _kill_at(child: int, log: Path, text: bytes) -> None:
    while not (log.exists() and text in log.read_bytes()):
        # Ended without a word; its status is the answer, and the caller's to judge.
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
