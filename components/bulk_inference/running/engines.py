"""Translates the section `engine` into Beam's options; the runner is always named.

`job.py` calls `choose_engine`. Beam's default, DirectRunner, would look for Prism and download it.
"""

from dataclasses import dataclass
from typing import Final

from apache_beam.options.pipeline_options import PipelineOptions

from components.bulk_inference.config import EngineConfig
from components.bulk_inference.running.dask_cluster import look_at_workers
from components.bulk_inference.running.engine_checks import find_prism, worker_environment
from trainer.cores import usable_cores

_WORKERS_PER_PROCESS: Final = 16
"""Threads that one interpreter can keep busy: each image holds the interpreter lock for about
10 us and costs a core at least 50 us."""

_PROCESS_MODULE: Final = "components.process_runner"
_DASK_MODULE: Final = "components.bulk_inference.running.dask_runner"
"""Beam imports both by name. Each has a string of its own, so that it counts as the step's code."""


@dataclass(frozen=True)
class Engine:
    """Describes a runner with its options.

    Attributes:
        options: Beam's options.
        workers: Number of cores of one worker process.
        in_process: Whether the workers are threads of this process.
        has_children: Whether they are child processes of it.
        repeats_units: Whether a unit of a lost worker is done, and counted, a second time.
    """

    options: PipelineOptions
    workers: int
    in_process: bool = False
    has_children: bool = False
    repeats_units: bool = True


def choose_engine(config: EngineConfig, units: int) -> Engine:
    """Chooses the runner of a job.

    Args:
        config: The section `engine`; `require_engine` has found nothing wrong with it.
        units: Number of work units to do, which limits the number of processes.
    """
    return _ENGINES[config.runner](config, units)


def _local(config: EngineConfig, units: int) -> Engine:
    workers = config.workers or usable_cores()
    wanted = config.processes or -(-workers // _WORKERS_PER_PROCESS)
    processes = max(1, min(wanted, workers, units))
    # FnApiRunner is named directly, because DirectRunner tries Prism first in every running mode.
    arguments = ["--runner=FnApiRunner"]
    if processes > 1:
        arguments = [
            f"--runner={_PROCESS_MODULE}.ProcessRunner",
            f"--direct_num_workers={processes}",
        ]
    return Engine(
        PipelineOptions([*arguments, *config.options]),
        max(1, workers // processes),
        in_process=processes == 1,
        has_children=processes > 1,
        repeats_units=False,
    )


def _dask(config: EngineConfig, units: int) -> Engine:
    arguments = [
        f"--runner={_DASK_MODULE}.LinearDaskRunner",
        f"--dask_client_address={config.master}",
        # Otherwise one worker would get up to 128 units, and the others none.
        "--dask_partition_size=1",
    ]
    workers = config.workers or min(each.cores for each in look_at_workers(config.master))
    return Engine(PipelineOptions([*arguments, *config.options]), workers)


def _prism(config: EngineConfig, units: int) -> Engine:
    # Without a location Beam downloads a binary.
    place = (
        f"job_endpoint={config.master}" if config.master else f"prism_location={find_prism(config)}"
    )
    return _portable(config, "--runner=PrismRunner", f"--{place}")


def _flink(config: EngineConfig, units: int) -> Engine:
    arguments = ["--runner=FlinkRunner", f"--flink_master={config.master or '[local]'}"]
    if config.job_server_jar:
        arguments.append(f"--flink_job_server_jar={config.job_server_jar}")
    return _portable(config, *arguments)


def _spark(config: EngineConfig, units: int) -> Engine:
    arguments = ["--runner=SparkRunner"]
    if config.master:
        arguments.append(f"--spark_master_url={config.master}")
    if config.job_server_jar:
        arguments.append(f"--spark_job_server_jar={config.job_server_jar}")
    return _portable(config, *arguments)


def _portable(config: EngineConfig, *arguments: str) -> Engine:
    """Returns a runner behind Beam's job API, whose workers are Beam's worker pools."""
    environment = worker_environment(config)
    shared = [
        f"--environment_type={environment}",
        f"--parallelism={config.parallelism or config.workers or 1}",
    ]
    if environment == "LOOPBACK":
        # One worker process, whose slots are threads that share the model.
        shared.append("--sdk_worker_parallelism=1")
    if config.environment_config:
        shared.append(f"--environment_config={config.environment_config}")
    options = PipelineOptions([*shared, *arguments, *config.options])
    return Engine(options, config.workers or usable_cores(), in_process=environment == "LOOPBACK")


def _dataflow(config: EngineConfig, units: int) -> Engine:
    arguments = ["--runner=DataflowRunner", "--experiments=use_runner_v2"]
    # One Python process per machine, so that all cores share the model.
    arguments.append("--experiments=no_use_multiple_sdk_containers")
    if config.region:
        arguments.append(f"--region={config.region}")
    if config.environment_config:
        arguments.append(f"--sdk_container_image={config.environment_config}")
    return Engine(PipelineOptions([*arguments, *config.options]), config.workers or 4)


_ENGINES: Final = {
    "local": _local,
    "prism": _prism,
    "dask": _dask,
    "flink": _flink,
    "spark": _spark,
    "dataflow": _dataflow,
}
