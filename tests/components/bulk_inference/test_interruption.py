"""Ctrl-C ends a job of several processes at once, and the worker processes with it."""

import signal
import subprocess
import sys

import psutil

from tests.limits import HANG_SECS

JOB = """
import signal, subprocess, sys
from components.bulk_inference.running.interruption import workers_end_with_us

# A suite that runs in the background of a shell script inherits that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with workers_end_with_us():
        worker = subprocess.Popen("sleep 7200 & wait", shell=True)
        print("at work", flush=True)
        worker.wait()
except KeyboardInterrupt:
    worker.wait()
    sys.exit(130)
"""


def test_workers_end_with_the_job() -> None:
    with subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "at work\n"
        process = psutil.Process(job.pid)
        while len(workers := process.children(recursive=True)) < 2:
            pass
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=HANG_SECS) == 130
        _, alive = psutil.wait_procs(workers, timeout=HANG_SECS)
        assert not alive
