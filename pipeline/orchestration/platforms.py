"""Defines the interface of platforms and selects the client of Kubeflow or Vertex."""

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.config import ConfigError, PipelineConfig
from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.schedules import Schedule


class Platform(Protocol):
    """A platform that runs pipelines and schedules."""

    def submit(self, job: Mapping[str, Any], *, force: bool) -> str:
        """Starts one run and returns its address or name."""

    def create_schedule(self, job: Mapping[str, Any], schedule: ScheduleConfig) -> Schedule:
        """Creates a schedule with one run at a time and no catch-up of missed runs."""

    def list_schedules(self, name: str) -> list[Schedule]:
        """Lists the schedules of a pipeline."""

    def set_active(self, schedule_id: str, *, active: bool) -> None:
        """Pauses or resumes a schedule."""

    def delete_schedule(self, schedule_id: str) -> None:
        """Deletes a schedule; its runs are kept."""


def connect(config: PipelineConfig) -> Platform:
    """Creates the client of the configured platform.

    Raises:
        ConfigError: No platform is configured.
        ServiceError: There are no credentials.
    """
    if config.cluster is None:
        raise ConfigError("cluster: the section is missing; it says what runs the pipeline")
    with warnings.catch_warnings():
        # Google's libraries, which both use, announce the end of a Python version years ahead.
        warnings.simplefilter("ignore", FutureWarning)
        if config.cluster.platform == "vertex":
            from pipeline.orchestration.vertex import Vertex

            return Vertex(config.cluster)
        from pipeline.orchestration.kubeflow import Kubeflow

        return Kubeflow(config.cluster)
