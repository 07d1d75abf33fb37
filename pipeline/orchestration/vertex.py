"""Manages pipeline jobs and schedules of Vertex AI Pipelines with Google's client library.

https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.schedules
"""

import datetime
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from google.api_core.exceptions import ServiceUnavailable, TooManyRequests
from google.api_core.retry import Retry, if_exception_type
from google.cloud import aiplatform_v1 as vertex_api
from google.cloud.aiplatform_v1.services.pipeline_service import transports as job_transports
from google.cloud.aiplatform_v1.services.schedule_service import transports as schedule_transports

from pipeline.config import ConfigError
from pipeline.orchestration.config import ClusterConfig, ScheduleConfig, VertexConfig
from pipeline.orchestration.schedules import Schedule, timestamp
from pipeline.orchestration.services import TIMEOUT_SECS, ServiceError, reported

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Reading may be repeated; a request that makes something may have been carried out.
_RETRY = Retry(if_exception_type(ServiceUnavailable, TooManyRequests), timeout=TIMEOUT_SECS)
_STATES = {
    vertex_api.Schedule.State.PAUSED: "paused",
    vertex_api.Schedule.State.COMPLETED: "ended",
}


class Vertex:
    """A client of a project's pipelines in one region.

    It speaks REST, which passes proxies that gRPC does not pass.

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
        self._address = vertex.endpoint or f"https://{vertex.region}-aiplatform.googleapis.com"
        url = urlsplit(self._address)
        given: dict[str, Any] = {
            "host": url.netloc, "url_scheme": url.scheme, "credentials": _credentials(vertex)
        }  # fmt: skip
        self._jobs = vertex_api.PipelineServiceClient(
            transport=job_transports.PipelineServiceRestTransport(**given)
        )
        self._schedules = vertex_api.ScheduleServiceClient(
            transport=schedule_transports.ScheduleServiceRestTransport(**given)
        )

    def submit(self, job: Mapping[str, Any], *, force: bool) -> str:
        """Starts one run and returns the job's name."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d%H%M%S")
        with reported("Vertex", self._address):
            made = self._jobs.create_pipeline_job(
                parent=self._parent,
                pipeline_job=self._job(job, force=force),
                pipeline_job_id=f"{job['displayName']}-{now}",
                timeout=TIMEOUT_SECS,
            )
        return str(made.name)

    def create_schedule(self, job: Mapping[str, Any], schedule: ScheduleConfig) -> Schedule:
        """Creates a schedule."""
        wanted = vertex_api.Schedule(
            display_name=job["displayName"],
            cron=f"TZ={schedule.time_zone} {schedule.cron}",
            # A run that would overlap with another one is skipped.
            max_concurrent_run_count=1,
            allow_queueing=False,
            start_time=timestamp(schedule.instant(schedule.start)),
            end_time=timestamp(schedule.instant(schedule.end)),
            create_pipeline_job_request=vertex_api.CreatePipelineJobRequest(
                parent=self._parent, pipeline_job=self._job(job, force=False)
            ),
        )
        with reported("Vertex", self._address):
            made = self._schedules.create_schedule(
                parent=self._parent, schedule=wanted, timeout=TIMEOUT_SECS
            )
        return _schedule(made)

    def list_schedules(self, name: str) -> list[Schedule]:
        """Lists the schedules of a pipeline."""
        request = vertex_api.ListSchedulesRequest(
            parent=self._parent, filter=f'display_name="{name}"'
        )
        with reported("Vertex", self._address):
            found = self._schedules.list_schedules(request, retry=_RETRY, timeout=TIMEOUT_SECS)
            return [_schedule(item) for item in found]

    def set_active(self, schedule_id: str, *, active: bool) -> None:
        """Pauses a schedule, or resumes it without the missed runs."""
        with reported("Vertex", self._address):
            if active:
                self._schedules.resume_schedule(
                    name=schedule_id, catch_up=False, timeout=TIMEOUT_SECS
                )
            else:
                self._schedules.pause_schedule(name=schedule_id, timeout=TIMEOUT_SECS)

    def delete_schedule(self, schedule_id: str) -> None:
        """Deletes a schedule."""
        with reported("Vertex", self._address):
            self._schedules.delete_schedule(name=schedule_id, timeout=TIMEOUT_SECS)

    def _job(self, job: Mapping[str, Any], *, force: bool) -> vertex_api.PipelineJob:
        runtime = job["runtimeConfig"]
        return vertex_api.PipelineJob(
            display_name=job["displayName"],
            pipeline_spec=job["pipelineSpec"],
            runtime_config=vertex_api.PipelineJob.RuntimeConfig(
                gcs_output_directory=runtime["gcsOutputDirectory"],
                parameter_values={**runtime["parameterValues"], "force": int(force)},
                failure_policy=vertex_api.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST,
            ),
            service_account=self._vertex.service_account or "",
            network=self._vertex.network or "",
        )


def _credentials(vertex: VertexConfig) -> "Credentials":
    """Takes an access token from the environment, or Google's default credentials."""
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests
    import google.oauth2.credentials

    if vertex.token_variable is not None:
        token = os.environ.get(vertex.token_variable, "")
        if not token:
            raise ServiceError(
                f"Vertex: the environment has no {vertex.token_variable}, "
                "which cluster.vertex.token_variable names"
            )
        return google.oauth2.credentials.Credentials(token)
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        reason = " ".join(str(error).split())[:200]
        raise ServiceError(
            f"Vertex: no credentials ({reason}); run `gcloud auth application-default login`, or "
            "set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    return credentials


def _schedule(item: vertex_api.Schedule) -> Schedule:
    return Schedule(
        id=item.name,
        name=item.display_name,
        cron=item.cron,
        state=_STATES.get(item.state, "active"),
        next_run=timestamp(item.next_run_time) or "",
    )
