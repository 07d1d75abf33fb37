"""Manages runs and recurring runs of Kubeflow Pipelines through its REST API, v2beta1.

https://www.kubeflow.org/docs/components/pipelines/reference/api/kubeflow-pipeline-api-spec/
"""

import os
from collections.abc import Mapping
from typing import Any

from pipeline.config import ConfigError
from pipeline.orchestration.config import ClusterConfig, ScheduleConfig
from pipeline.orchestration.schedules import Schedule, timestamp
from pipeline.orchestration.services import Service

_STATES = {"ENABLED": "active", "DISABLED": "paused"}


class Kubeflow:
    """A client of one Kubeflow Pipelines server.

    Args:
        cluster: The cluster's configuration, for platform kubeflow.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        if cluster.kubeflow is None:
            raise ConfigError("cluster.kubeflow is missing: endpoint")
        self._kubeflow = cluster.kubeflow
        self._service = Service(
            f"{self._kubeflow.endpoint.rstrip('/')}/apis/v2beta1",
            token=os.environ.get(self._kubeflow.token_variable, ""),
            name="Kubeflow",
        )

    def submit(self, job: Mapping[str, Any], *, force: bool) -> str:
        """Starts one run and returns its id."""
        return str(self._service.call("POST", "runs", body=self._run(job, force))["run_id"])

    def create_schedule(self, job: Mapping[str, Any], schedule: ScheduleConfig) -> Schedule:
        """Creates a recurring run.

        Raises:
            ConfigError: The schedule's time zone is not the server's.
        """
        if schedule.time_zone != self._kubeflow.time_zone:
            raise ConfigError(
                f"schedule.time_zone: a recurring run can't name {schedule.time_zone}; Kubeflow "
                f"takes its server's zone, {self._kubeflow.time_zone} by "
                "cluster.kubeflow.time_zone"
            )
        # Kubeflow's cron expressions start with a field for seconds.
        cron: dict[str, str] = {"cron": f"0 {schedule.cron}"}
        for key, time in (("start_time", schedule.start), ("end_time", schedule.end)):
            if text := timestamp(schedule.instant(time)):
                cron[key] = text
        body = {
            **self._run(job, False),
            "trigger": {"cron_schedule": cron},
            "mode": "ENABLE",
            "max_concurrency": "1",
            "no_catchup": True,
        }
        if self._kubeflow.namespace:
            body["namespace"] = self._kubeflow.namespace
        return _schedule(self._service.call("POST", "recurringruns", body=body))

    def list_schedules(self, name: str) -> list[Schedule]:
        """Lists the recurring runs of a pipeline."""
        query = {"page_size": "100"}
        if self._kubeflow.namespace:
            query["namespace"] = self._kubeflow.namespace
        found = self._service.pages(
            "recurringruns", "recurringRuns", ("next_page_token", "page_token"), query
        )
        return [_schedule(item) for item in found if item.get("display_name") == name]

    def set_active(self, schedule_id: str, *, active: bool) -> None:
        """Pauses or resumes a recurring run."""
        verb = "enable" if active else "disable"
        self._service.call("POST", f"recurringruns/{schedule_id}:{verb}")

    def delete_schedule(self, schedule_id: str) -> None:
        """Deletes a recurring run."""
        self._service.call("DELETE", f"recurringruns/{schedule_id}")

    def _run(self, job: Mapping[str, Any], force: bool) -> dict[str, Any]:
        spec = {"pipeline_spec": job["pipelineSpec"]}
        if "platforms" in job:
            spec["platform_spec"] = {"platforms": job["platforms"]}
        runtime = job["runtimeConfig"]
        result: dict[str, Any] = {
            "display_name": job["displayName"],
            "pipeline_spec": spec,
            "runtime_config": {
                "parameters": {**runtime["parameterValues"], "force": int(force)},
                "pipeline_root": runtime["gcsOutputDirectory"],
            },
        }
        if self._kubeflow.experiment_id:
            result["experiment_id"] = self._kubeflow.experiment_id
        if self._kubeflow.service_account is not None:
            result["service_account"] = self._kubeflow.service_account
        return result


def _schedule(item: Mapping[str, Any]) -> Schedule:
    trigger = (item.get("trigger") or {}).get("cron_schedule") or {}
    return Schedule(
        id=str(item["recurring_run_id"]),
        name=str(item.get("display_name", "")),
        cron=str(trigger.get("cron", "")),
        state=_STATES.get(str(item.get("status", "")), "active"),
    )
