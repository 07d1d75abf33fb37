"""Runs a TFX pipeline on this machine, with a step beside the others where the DAG allows it.

`local_runner.py` uses it instead of TFX's LocalDagRunner, which runs one step after another.
"""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from absl import logging
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils, tfx_runner

from pipeline.causes import cause
from pipeline.step_memory import batch_by_bytes, release_memory
from pipeline.stop_signals import is_stop


class DagRunner(tfx_runner.IrBasedRunner):
    """Runs the steps in the DAG's order, and some of them in a second thread.

    A step of the second thread has ended before a step starts that depends on it. If a step fails,
    the one in the other thread still ends and is recorded.

    Args:
        on_step: Function called with a step's name and None when it starts, and with its name and
            wall time in seconds when it ends, in the step's thread.
        aside: For each step of the second thread, by its id, the function that stops it, called if
            the run is interrupted. The Trainer must not be among them: it handles signals, which
            Python allows in the main thread only.
        at_work: For some steps, by their ids, functions to call when they begin to work; steps
            from the cache do not.

    Attributes:
        metadata_lock: To be held by a function that opens the metadata store while steps run.
    """

    def __init__(
        self,
        *,
        on_step: Callable[[str, float | None], None],
        aside: Mapping[str, Callable[[], None]],
        at_work: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self._on_step = on_step
        self._aside = aside
        self._at_work = at_work or {}
        self.metadata_lock = threading.RLock()

    def run_with_ir(self, pipeline: Any, run_options: Any = None, **kwargs: Any) -> None:
        """Runs a compiled pipeline.

        Args:
            pipeline: The pipeline proto.
            run_options: TFX's options of a partial run; must be None.
            **kwargs: Ignored; TFX's interface has them.

        Raises:
            Exception: The error of a step. A note names the error of the step beside it.
        """
        if run_options is not None:
            raise ValueError("run_options: expected None; partial runs are not supported")
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline,
            {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now().isoformat()},
        )
        batch_by_bytes()
        running: dict[str, Future[None]] = {}
        # Leaving the block of the pool waits for its thread.
        with ThreadPoolExecutor(1, thread_name_prefix="aside") as pool:
            try:
                self._run_nodes(pipeline, pool, running)
            except BaseException as error:
                if is_stop(error):
                    self._stop(running)
                else:
                    _add_notes(error, running)
                raise

    def _run_nodes(
        self, pipeline: Any, pool: ThreadPoolExecutor, running: dict[str, Future[None]]
    ) -> None:
        deployment = runner_utils.extract_local_deployment_config(pipeline)
        try:
            for node in pipeline.nodes:
                step = node.pipeline_node
                name = step.node_info.id
                _join(running, step.upstream_nodes)
                # Importing a step's modules is not left to the second thread.
                launch = self._launcher(pipeline, step, deployment).launch
                if name in self._aside:
                    running[name] = pool.submit(self._run_step, name, launch)
                else:
                    self._run_step(name, launch)
            _join(running, running)
        except Exception as error:
            if not is_stop(error):
                wait(running.values())
            raise

    def _launcher(self, pipeline: Any, step: Any, deployment: Any) -> launcher.Launcher:
        connection = deployment.metadata_connection_config
        name = step.node_info.id
        return _Launcher(
            self._at_work.get(name),
            pipeline_node=step,
            mlmd_connection=_LockedMetadata(
                getattr(connection, connection.WhichOneof("connection_config")), self.metadata_lock
            ),
            pipeline_info=pipeline.pipeline_info,
            pipeline_runtime_spec=pipeline.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, name),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
        )

    def _run_step(self, name: str, launch: Callable[[], Any]) -> None:
        logging.info("Component %s is running.", name)
        self._on_step(name, None)
        begin = time.monotonic()
        launch()
        seconds = time.monotonic() - begin
        release_memory(seconds)
        logging.info("Component %s is finished.", name)
        self._on_step(name, seconds)

    def _stop(self, running: Mapping[str, "Future[None]"]) -> None:
        for name, future in running.items():
            if not future.cancel() and not future.done():
                logging.info("Component %s is stopped.", name)
                self._aside[name]()


class _Launcher(launcher.Launcher):
    """Calls a function before the executor of a step.

    Args:
        at_work: The function, or None.
        **arguments: Those of TFX's launcher.
    """

    def __init__(self, at_work: Callable[[], None] | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._at_work = at_work

    def _run_executor(self, execution_info: Any) -> Any:
        if self._at_work is not None:
            self._at_work()
        return super()._run_executor(execution_info)


class _LockedMetadata(metadata.Metadata):
    """Opens the metadata store for one thread at a time.

    TFX's launcher looks for contexts and types and creates missing ones, in several transactions:
    another thread must not do the same in between.

    Args:
        connection: The connection's configuration.
        lock: The lock that all connections of a run share.
    """

    def __init__(self, connection: Any, lock: threading.RLock) -> None:
        super().__init__(connection)
        self._lock = lock

    def __enter__(self) -> "_LockedMetadata":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock)
            super().__enter__()
            stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._lock.release()


def _join(running: dict[str, "Future[None]"], names: Iterable[str]) -> None:
    """Waits for those of the named steps that run aside, and raises the error of one."""
    for name in names:
        if name in running:
            running[name].result()


def _add_notes(error: BaseException, running: Mapping[str, "Future[None]"]) -> None:
    """Adds notes about other errors, those of steps that ran aside."""
    for name, future in running.items():
        other = future.exception() if future.done() else None
        if other is not None and other is not error:
            error.add_note(f"{name} failed, too: {cause(other)}")
