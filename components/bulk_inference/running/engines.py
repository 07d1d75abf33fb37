"""Chooses the Beam runner of a job and its options; the runner is always explicit.

`job.py` calls it. Beam's default, DirectRunner, would look for Prism and download it.
"""

import os
from dataclasses import dataclass
from typing import Final

from apache_beam.options.pipeline_options import PipelineOptions

from components.bulk_inference.config import EngineConfig
from trainer.errors import InputError

_WORKERS_PER_PROCESS: Final = 16
"""Threads that one interpreter can keep busy: each image holds the interpreter lock for about
10 us and costs a core at least 50 us."""


@dataclass(frozen=True)
class Engine:
    """Describes a runner with its options.

    Attributes:
        options: Beam's options.
        workers: Number of cores of one worker process.
        in_process: Whether the workers are threads of this process.
        has_children: Whether they are child processes of it.
    """

    options: PipelineOptions
    workers: int
    in_process: bool
    has_children: bool = False


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def choose_engine(config: EngineConfig, units: int) -> Engine:
    """Chooses the runner of a job.

    Args:
        config: The section `engine`.
        units: Number of work units to do, which limits the number of processes.

    Raises:
        InputError: if options contradict each other or a jar is missing.
    """
    if config.runner == "local":
        return _local(config, units)
    if config.runner == "dataflow":
        return _dataflow(config)
    return _portable(config)


def _local(config: EngineConfig, units: int) -> Engine:
    workers = config.workers or usable_cores()
    wanted = config.processes or -(-workers // _WORKERS_PER_PROCESS)
    processes = max(1, min(wanted, workers, units))
    # FnApiRunner is named directly, because DirectRunner tries Prism first in every running mode.
    arguments = ["--runner=FnApiRunner"]
    if processes > 1:
        arguments += [
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={processes}",
        ]
    options = PipelineOptions([*arguments, *config.options])
    return Engine(options, max(1, workers // processes), processes == 1, processes > 1)


def _portable(config: EngineConfig) -> Engine:
    if config.job_server_jar and not os.path.exists(config.job_server_jar):
        raise InputError(
            f"bulk.engine.job_server_jar: {config.job_server_jar} does not exist; fetch"
            " org.apache.beam:beam-runners-flink-1.20-job-server of Beam's version from Maven"
        )
    parallelism = config.parallelism or config.workers or 1
    environment = config.environment or (
        "LOOPBACK" if config.flink_master.startswith("[") else "EXTERNAL"
    )
    if environment == "EXTERNAL" and not config.environment_config:
        raise InputError(
            "bulk.engine.environment EXTERNAL needs environment_config, the worker pool's"
            " address as the task managers reach it: localhost:50000"
        )
    arguments = [f"--environment_type={environment}", f"--parallelism={parallelism}"]
    if environment == "LOOPBACK":
        # One worker process, whose slots are threads that share the model.
        arguments.append("--sdk_worker_parallelism=1")
    if config.environment_config:
        arguments.append(f"--environment_config={config.environment_config}")
    if config.runner == "flink":
        arguments += ["--runner=FlinkRunner", f"--flink_master={config.flink_master}"]
        if config.job_server_jar:
            arguments.append(f"--flink_job_server_jar={config.job_server_jar}")
    else:
        arguments.append("--runner=SparkRunner")
        if config.job_server_jar:
            arguments.append(f"--spark_job_server_jar={config.job_server_jar}")
    options = PipelineOptions([*arguments, *config.options])
    return Engine(options, config.workers or usable_cores(), environment == "LOOPBACK")


def _dataflow(config: EngineConfig) -> Engine:
    arguments = ["--runner=DataflowRunner", "--experiments=use_runner_v2"]
    # One Python process per machine, so that all cores share the model.
    arguments.append("--experiments=no_use_multiple_sdk_containers")
    if config.environment_config:
        arguments.append(f"--sdk_container_image={config.environment_config}")
    missing = [
        name
        for name in ("project", "region", "temp_location")
        if not any(option.startswith(f"--{name}=") for option in config.options)
    ]
    if missing:
        raise InputError(f"bulk.engine.options: Dataflow needs --{missing[0]}=...; it is not there")
    return Engine(PipelineOptions([*arguments, *config.options]), config.workers or 4, False)
