"""Runs container commands of steps in forks of one process that has imported TFX already.

`python -m tests.pipeline.orchestration.warm`: reads a JSON object with `argv`, `log` and `kill_at`
per line, answers with the exit status. A fork is a process of its own; only the 14 s of imports are
shared. With `kill_at`, SIGKILL is sent when the log holds that text.
"""

import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path


def main() -> None:
    import tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor  # noqa: F401
    from tfx import v1  # noqa: F401

    import pipeline.run_fn  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request["argv"], request["log"])
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


def _run(argv: list[str], log: str) -> None:
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = 1
    try:
        # argv is `python -m MODULE ARGUMENTS...`
        module = argv[2]
        sys.argv = [module, *argv[3:]]
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
