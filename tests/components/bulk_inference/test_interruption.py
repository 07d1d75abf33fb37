"""Ctrl-C ends a job of several processes at once, and the worker processes with it."""

import signal
import subprocess
import sys

import psutil

JOB = """
import subprocess, sys
from components.bulk_inference.interruption import workers_end_with_us

try:
    with workers_end_with_us():
        worker = subprocess.Popen("sleep 300 & wait", shell=True)
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
        assert job.wait(timeout=60) == 130
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
