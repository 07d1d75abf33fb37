"""Beam's local runner with worker processes; bulk jobs name it by its path."""

import shlex
import sys

from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import environments


class ProcessRunner(FnApiRunner):
    """Runs a pipeline on `--direct_num_workers` processes of this machine.

    As FnApiRunner with `--direct_running_mode=multi_processing`, which gives the interpreter's path
    to a shell as it is (Beam 2.72 to 2.77): below a folder with a space in its name no worker
    starts, and the pipeline waits for ever.
    """

    def __init__(self) -> None:
        command = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
        super().__init__(
            default_environment=environments.SubprocessSDKEnvironment.from_command_string(command)
        )
