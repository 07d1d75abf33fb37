"""Manages pipeline jobs and schedules of Vertex AI Pipelines through its REST API, v1.

https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.schedules
"""

import datetime
import os
from collections.abc import Mapping
from typing import Any

from pipeline.config import ConfigError
from pipeline.orchestration.config import ClusterConfig, ScheduleConfig, VertexConfig
from pipeline.orchestration.schedules import Schedule, timestamp
from pipeline.orchestration.services import Service, ServiceError

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_STATES = {"ACTIVE": "active", "PAUSED": "paused", "COMPLETED": "ended"}


class Vertex:
    """A client of a project's pipelines in one region.

    Args:
        cluster: The cluster's configuration, for platform vertex.

    Raises:
        ServiceError: There are no credentials.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        if cluster.vertex is None:
            raise ConfigError("cluster.vertex is missing: project and region")
        vertex = cluster.vertex
        self._vertex = vertex
        self._parent = f"projects/{vertex.project}/locations/{vertex.region}"
        address = vertex.endpoint or f"https://{vertex.region}-aiplatform.googleapis.com"
        self._service = Service(f"{address.rstrip('/')}/v1", token=_token(vertex), name="Vertex")

    def submit(self, job: Mapping[str, Any], *, force: bool) -> str:
        """Starts one run and returns the job's name."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d%H%M%S")
        answer = self._service.call(
            "POST",
            f"{self._parent}/pipelineJobs",
            query={"pipelineJobId": f"{job['displayName']}-{now}"},
            body=self._job(job, force=force),
        )
        return str(answer["name"])

    def create_schedule(self, job: Mapping[str, Any], schedule: ScheduleConfig) -> Schedule:
        """Creates a schedule."""
        body = {
            "displayName": job["displayName"],
            "cron": f"TZ={schedule.time_zone} {schedule.cron}",
            "maxConcurrentRunCount": "1",
            # A run that would overlap with another one is skipped.
            "allowQueueing": False,
            "createPipelineJobRequest": {
                "parent": self._parent,
                "pipelineJob": self._job(job, force=False),
            },
        }
        for key, time in (("startTime", schedule.start), ("endTime", schedule.end)):
            if text := timestamp(schedule.instant(time)):
                body[key] = text
        return _schedule(self._service.call("POST", f"{self._parent}/schedules", body=body))

    def list_schedules(self, name: str) -> list[Schedule]:
        """Lists the schedules of a pipeline."""
        found = self._service.pages(
            f"{self._parent}/schedules",
            "schedules",
            ("nextPageToken", "pageToken"),
            {"filter": f'display_name="{name}"'},
        )
        return [_schedule(item) for item in found]

    def set_active(self, schedule_id: str, *, active: bool) -> None:
        """Pauses a schedule, or resumes it without the missed runs."""
        if active:
            self._service.call("POST", f"{schedule_id}:resume", body={"catchUp": False})
        else:
            self._service.call("POST", f"{schedule_id}:pause", body={})

    def delete_schedule(self, schedule_id: str) -> None:
        """Deletes a schedule."""
        self._service.call("DELETE", schedule_id)

    def _job(self, job: Mapping[str, Any], *, force: bool) -> dict[str, Any]:
        runtime = job["runtimeConfig"]
        result = {
            "displayName": job["displayName"],
            "pipelineSpec": job["pipelineSpec"],
            "runtimeConfig": {
                "gcsOutputDirectory": runtime["gcsOutputDirectory"],
                "parameterValues": {**runtime["parameterValues"], "force": int(force)},
                "failurePolicy": "PIPELINE_FAILURE_POLICY_FAIL_FAST",
            },
        }
        if self._vertex.service_account is not None:
            result["serviceAccount"] = self._vertex.service_account
        if self._vertex.network is not None:
            result["network"] = self._vertex.network
        return result


def _token(vertex: VertexConfig) -> str:
    """Gets an access token from the environment or from the default credentials."""
    if vertex.token_variable is not None:
        token = os.environ.get(vertex.token_variable, "")
        if not token:
            raise ServiceError(
                f"Vertex: the environment has no {vertex.token_variable}, "
                "which cluster.vertex.token_variable names"
            )
        return token
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        reason = " ".join(str(error).split())[:200]
        raise ServiceError(
            f"Vertex: no credentials ({reason}); run `gcloud auth application-default login`, or "
            "set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    return str(credentials.token)


def _schedule(item: Mapping[str, Any]) -> Schedule:
    return Schedule(
        id=str(item["name"]),
        name=str(item.get("displayName", "")),
        cron=str(item.get("cron", "")),
        state=_STATES.get(str(item.get("state", "")), "active"),
        next_run=str(item.get("nextRunTime", "")),
    )
