"""Checks that a job's runner can be used, before anything starts.

`job.py` calls `require_engine`, and so does the command that runs the pipeline. Each check ends in
one line that says what is wrong and what to do. Beam is imported only to check options of its own,
because that takes seconds.
"""

import glob
import importlib.util
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from components.bulk_inference.config import BulkConfig, EngineConfig
from components.bulk_inference.running.beam_options import require_known_options
from components.bulk_inference.running.dask_cluster import look_at_workers
from trainer.errors import InputError

_ANSWER_SECS: Final = 5.0
_THIS_MACHINE: Final = re.compile(
    r"(\[local\]|local(\[.*\])?|(\w+://)?(localhost|127\.0\.0\.1)(:\d+)?)?"
)
"""Masters whose workers can be threads of this process; an empty one is started by the job."""

_PRISM_FOLDER: Final = "~/.apache_beam/cache/prism/bin"
"""Where Beam keeps binaries of Prism."""
BUILD_PRISM: Final = (
    f"GOBIN={_PRISM_FOLDER} go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.71.0"
)
"""The command that builds it from Go's modules, in some minutes."""

_OWN_CODE: Final = ("sdk_container_image", "setup_file", "extra_package", "extra_packages")
"""Options by which workers of Dataflow get vaeline, besides the image that the section names."""

_NEEDED_MODULES: Final = {"dask": "distributed", "dataflow": "apitools"}
"""A module that comes with the extra of the runner's name."""


def require_engine(config: BulkConfig) -> None:
    """Checks packages, programs, options and addresses of a job's runner.

    Args:
        config: The job; what it does not name yet is not checked.

    Raises:
        InputError: if something is missing, does not answer or contradicts the runner.
    """
    engine = config.engine
    module = _NEEDED_MODULES.get(engine.runner)
    if module and importlib.util.find_spec(module) is None:
        raise InputError(
            f"bulk.engine.runner (--runner): {engine.runner} needs packages that are not"
            f" installed; pip install 'vaeline[{engine.runner}]'"
        )
    for key, value, takers in (
        ("master", engine.master, ("prism", "dask", "flink", "spark")),
        ("region", engine.region, ("dataflow",)),
    ):
        if value and engine.runner not in takers:
            raise InputError(
                f"bulk.engine.{key} (--{key}): the runner {engine.runner} has none; leave it out,"
                f" or choose {' or '.join(takers)} with --runner"
            )
    is_portable = engine.runner in ("prism", "flink", "spark")
    other = engine.option("runner")
    if other and not (is_portable and other == "PortableRunner"):
        raise InputError(
            f"bulk.engine.options: --runner={other} contradicts bulk.engine.runner,"
            f" {engine.runner}; choose it with --runner, and leave the option out"
        )
    _CHECKS[engine.runner](config)
    if engine.runner == "dask" and engine.options:
        # Only its import makes its options known.
        import apache_beam.runners.dask.dask_runner  # noqa: F401
    require_known_options("bulk.engine.options", engine.options, others_read_them=is_portable)


def worker_environment(engine: EngineConfig) -> str:
    """Returns where the Python workers behind Beam's job API live."""
    here = _THIS_MACHINE.fullmatch(engine.master)
    return engine.environment or ("LOOPBACK" if here else "EXTERNAL")


def find_prism(engine: EngineConfig) -> str:
    """Returns the path of Prism's binary.

    Raises:
        InputError: if there is none; it is never downloaded.
    """
    named = engine.option("prism_location")
    if named and "://" not in named and not os.path.exists(named):
        raise InputError(f"bulk.engine.options: --prism_location={named} does not exist")
    cached = str(Path(_PRISM_FOLDER, "prism").expanduser())
    found = named or shutil.which("prism") or shutil.which(cached)
    if not found:
        raise InputError(
            f"bulk.engine.runner (--runner): no program `prism` on PATH or in {_PRISM_FOLDER};"
            f" build it with `{BUILD_PRISM}`, or give the address of a running one as host:port"
            " with --master"
        )
    return found


def _check_local(config: BulkConfig) -> None:
    """Finds nothing to check: Beam's local runner comes with Beam."""


def _check_prism(config: BulkConfig) -> None:
    if config.engine.master:
        _require_answer(config.engine, "start `prism`")
    else:
        find_prism(config.engine)
    _require_worker_pool(config.engine)


def _check_dask(config: BulkConfig) -> None:
    if not config.engine.master:
        raise InputError(
            "bulk.engine.master (--master): dask needs the address of its scheduler, tcp://HOST:8786;"
            " `dask scheduler` starts one, and the runner local uses this machine's cores without"
        )
    _require_answer(config.engine, "start it with `dask scheduler`")
    keys = {config.model: "bulk.model", config.output: "bulk.output"}
    for path in config.input.paths if config.input is not None else ():
        keys[path] = "bulk.input.paths"
    local = {
        path: key for path, key in keys.items() if os.path.isabs(path) and not glob.has_magic(path)
    }
    for worker in look_at_workers(config.engine.master, local):
        for path in worker.missing:
            raise InputError(
                f"{local[path]}: {path} is not there on the Dask worker {worker.address}; use a"
                " file system that all machines share, gs:// or s3://"
            )


def _check_flink(config: BulkConfig) -> None:
    # [local] and [auto] are no addresses.
    if config.engine.master and not config.engine.master.startswith("["):
        _require_answer(config.engine, "start the cluster")
    _require_job_server(config.engine)


def _check_spark(config: BulkConfig) -> None:
    # Other masters, such as yarn and k8s://, are no addresses of a server.
    if config.engine.master.startswith("spark://"):
        _require_answer(config.engine, "start the cluster")
    _require_job_server(config.engine)


def _check_dataflow(config: BulkConfig) -> None:
    engine = config.engine
    for name in ("project", "region", "temp_location"):
        if not engine.option(name) and not (name == "region" and engine.region):
            raise InputError(f"bulk.engine.options: Dataflow needs --{name}=...; it is not there")
    if not engine.option("temp_location").startswith("gs://"):
        raise InputError("bulk.engine.options: --temp_location of Dataflow must be at gs://")
    if not engine.environment_config and not any(map(engine.option, _OWN_CODE)):
        raise InputError(
            "bulk.engine.environment_config: Dataflow needs the image of the workers, because"
            " Beam's own has no vaeline; build it with `make worker-image`"
        )
    _require_google_credentials()


def _require_google_credentials() -> None:
    """Checks what Beam finds out late: without credentials it waits for a browser, for ever."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        google.auth.default()
    except GoogleAuthError as error:
        raise InputError(
            "bulk.engine.runner (--runner): dataflow needs Google credentials; run"
            " `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error


def _require_job_server(engine: EngineConfig) -> None:
    """Checks the job server of Flink or Spark, a Java program that Beam starts here."""
    _require_worker_pool(engine)
    if engine.option("job_endpoint"):
        return
    jar, name = engine.job_server_jar, {"flink": "flink-1.20", "spark": "spark-3"}[engine.runner]
    if not jar or not os.path.exists(jar):
        found = f"{jar} does not exist" if jar else f"{engine.runner} needs Beam's job server"
        raise InputError(
            f"bulk.engine.job_server_jar: {found}; fetch"
            f" org.apache.beam:beam-runners-{name}-job-server of Beam's version from Maven"
        )
    if not shutil.which("java"):
        raise InputError(
            f"bulk.engine.runner (--runner): {engine.runner} needs Java 17 for Beam's job server;"
            " install it, or name a running job server in bulk.engine.options:"
            " --job_endpoint=host:port"
        )


def _require_worker_pool(engine: EngineConfig) -> None:
    if worker_environment(engine) == "EXTERNAL" and not engine.environment_config:
        raise InputError(
            "bulk.engine.environment EXTERNAL needs environment_config, the worker pool's"
            f" address as {engine.runner} reaches it: localhost:50000"
        )


def _require_answer(engine: EngineConfig, remedy: str) -> None:
    """Checks that a server listens at the master's address."""
    master = engine.master
    try:
        address = urlsplit(master if "//" in master else f"//{master}")
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise InputError(
            f"bulk.engine.master (--master): {master} is not an address of {engine.runner}; give"
            " host:port"
        )
    try:
        socket.create_connection((host, port), timeout=_ANSWER_SECS).close()
    except OSError as error:
        raise InputError(
            f"bulk.engine.master (--master): {engine.runner} does not answer at {master}"
            f" ({error.strerror or error}); {remedy}, or give another address"
        ) from error


_CHECKS: Final[dict[str, Callable[[BulkConfig], None]]] = {
    "local": _check_local,
    "prism": _check_prism,
    "dask": _check_dask,
    "flink": _check_flink,
    "spark": _check_spark,
    "dataflow": _check_dataflow,
}
