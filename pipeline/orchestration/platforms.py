"""What a platform can be asked for: a run, and schedules; picks Kubeflow's or Vertex's client."""

from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.config import ConfigError, PipelineConfig
from pipeline.orchestration.config import ScheduleConfig
from pipeline.orchestration.schedules import Schedule


class Platform(Protocol):
    """Runs pipelines."""

    def submit(self, job: Mapping[str, Any], *, force: bool) -> str:
        """Starts one run; gives its address or name."""

    def create_schedule(self, job: Mapping[str, Any], schedule: ScheduleConfig) -> Schedule:
        """Makes a schedule: one run at a time, none made up for."""

    def list_schedules(self, name: str) -> list[Schedule]:
        """Lists the schedules of a pipeline."""

    def set_active(self, schedule_id: str, *, active: bool) -> None:
        """Pauses a schedule or lets it go on."""

    def delete_schedule(self, schedule_id: str) -> None:
        """Removes a schedule; its runs stay."""


def connect(config: PipelineConfig) -> Platform:
    """Makes the client of the configured platform.

    Raises:
        ConfigError: None is configured.
        ServiceError: There is no way to sign in.
    """
    if config.cluster is None:
        raise ConfigError("cluster: the section is missing; it says what runs the pipeline")
    if config.cluster.platform == "vertex":
        from pipeline.orchestration.vertex import Vertex

        return Vertex(config.cluster)
    from pipeline.orchestration.kubeflow import Kubeflow

    return Kubeflow(config.cluster)
