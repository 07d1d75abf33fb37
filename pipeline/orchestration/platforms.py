"""What a platform can be asked for: a run, and schedules; picks Kubeflow's or Vertex's client."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pipeline.config import ConfigError, PipelineConfig
from pipeline.orchestration.config import ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """A schedule on a platform.

    Attributes:
        id: what the platform calls it.
        name: the pipeline's name.
        cron: as the platform has it.
        state: `active`, `paused` or `ended`.
        next_run: time of the next run, as the platform says it; empty where it doesn't.
    """

    id: str
    name: str
    cron: str
    state: str
    next_run: str = ""

    def as_dict(self) -> dict[str, str]:
        """Returns it in a form for JSON."""
        return asdict(self)


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


def timestamp(time: datetime.datetime | None) -> str | None:
    """Formats a time as both platforms want it: RFC 3339, UTC."""
    if time is None:
        return None
    return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
