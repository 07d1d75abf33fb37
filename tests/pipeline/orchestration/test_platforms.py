"""What is sent to Kubeflow and Vertex, field by field, and what their refusals become."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.causes import cause
from pipeline.config import ConfigError, PipelineConfig, parse_config
from pipeline.console import Terminal, fail
from pipeline.orchestration.platforms import connect
from pipeline.orchestration.secrets import refuse_secrets
from pipeline.orchestration.services import ServiceError
from tests.pipeline.orchestration.loopback import Loopback, loopback

IMAGE = "registry.example/vaeline@sha256:" + "0" * 64
JOB = {
    "displayName": "flowers",
    "pipelineSpec": {"pipelineInfo": {"name": "flowers"}, "schemaVersion": "2.1.0"},
    "runtimeConfig": {"gcsOutputDirectory": "gs://b/r", "parameterValues": {"force": 0}},
}
PLATFORMS: dict[str, Any] = {"kubernetes": {"deploymentSpec": {"executors": {}}}}
PARENT = "projects/pictures/locations/europe-west4"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("KFP_TOKEN", "kfp-s3cret")
    monkeypatch.setenv("VERTEX_TOKEN", "vertex-s3cret")
    with loopback() as memory:
        yield memory


def config(platform: str, address: str, **schedule: Any) -> PipelineConfig:
    clusters: dict[str, dict[str, Any]] = {
        "kubeflow": {
            "kubeflow": {
                "endpoint": address, "namespace": "team", "experiment_id": "exp",
                "service_account": "runner", "time_zone": "Europe/Berlin",
            }
        },
        "vertex": {
            "vertex": {
                "project": "pictures", "region": "europe-west4", "endpoint": address,
                "token_variable": "VERTEX_TOKEN", "service_account": "runner@pictures",
                "network": "projects/1/global/networks/n",
            }
        },
    }  # fmt: skip
    return parse_config(
        {
            "name": "flowers",
            "input": {"paths": "gs://b/a.zip"},
            "schedule": {
                "cron": "30 2 * * 1-5", "time_zone": "Europe/Berlin",
                "start": "2026-12-01T00:00:00", "end": "2027-12-01T00:00:00", **schedule,
            },
            "cluster": {
                "platform": platform, "image": IMAGE, "pipeline_root": "gs://b/r",
                **clusters[platform],
            },
        }
    )  # fmt: skip


def test_a_kubeflow_run_says_everything(server: Loopback) -> None:
    platform = connect(config("kubeflow", server.address))
    assert platform.submit({**JOB, "platforms": PLATFORMS}, force=True) == "run-1"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/apis/v2beta1/runs")
    assert request.token == "Bearer kfp-s3cret"
    assert request.body == {
        "display_name": "flowers",
        "pipeline_spec": {
            "pipeline_spec": JOB["pipelineSpec"],
            "platform_spec": {"platforms": PLATFORMS},
        },
        "runtime_config": {"parameters": {"force": 1}, "pipeline_root": "gs://b/r"},
        "experiment_id": "exp",
        "service_account": "runner",
    }


def test_a_kubeflow_recurring_run_says_everything(server: Loopback) -> None:
    settings = config("kubeflow", server.address)
    made = connect(settings).create_schedule(JOB, settings.schedule)
    assert (made.id, made.state) == ("rr-1", "active")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/apis/v2beta1/recurringruns")
    assert request.body == {
        "display_name": "flowers",
        "pipeline_spec": {"pipeline_spec": JOB["pipelineSpec"]},
        "runtime_config": {"parameters": {"force": 0}, "pipeline_root": "gs://b/r"},
        "experiment_id": "exp",
        "service_account": "runner",
        "namespace": "team",
        "trigger": {
            "cron_schedule": {
                "cron": "0 30 2 * * 1-5",
                "start_time": "2026-11-30T23:00:00Z",
                "end_time": "2027-11-30T23:00:00Z",
            }
        },
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
    }


def test_kubeflow_runs_in_its_servers_zone(server: Loopback) -> None:
    settings = config("kubeflow", server.address, time_zone="Asia/Tokyo")
    with pytest.raises(ConfigError, match="Kubeflow takes its server's zone, Europe/Berlin"):
        connect(settings).create_schedule(JOB, settings.schedule)
    assert server.requests == []


def test_a_vertex_run_says_everything(server: Loopback) -> None:
    # Its import takes two seconds, which every process of the suite would spend.
    from google.cloud import aiplatform_v1 as vertex_api

    name = connect(config("vertex", server.address)).submit(JOB, force=False)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"/v1/{PARENT}/pipelineJobs")
    assert request.token == "Bearer vertex-s3cret"
    assert name == f"{PARENT}/pipelineJobs/{request.query['pipelineJobId']}"
    assert request.body == {
        "displayName": "flowers",
        "pipelineSpec": JOB["pipelineSpec"],
        "runtimeConfig": {
            "gcsOutputDirectory": "gs://b/r",
            "parameterValues": {"force": 0},
            "failurePolicy": vertex_api.PipelineFailurePolicy.PIPELINE_FAILURE_POLICY_FAIL_FAST,
        },
        "serviceAccount": "runner@pictures",
        "network": "projects/1/global/networks/n",
    }


def test_a_vertex_schedule_says_everything_and_is_one_to_vertex(server: Loopback) -> None:
    settings = config("vertex", server.address)
    made = connect(settings).create_schedule(JOB, settings.schedule)
    assert (made.id, made.next_run) == (f"{PARENT}/schedules/1", "2026-12-01T02:00:00Z")
    (request,) = server.requests
    body = request.body
    job = body["createPipelineJobRequest"]
    assert job["parent"] == PARENT
    assert job["pipelineJob"]["pipelineSpec"] == JOB["pipelineSpec"]
    assert {key: value for key, value in body.items() if key != "createPipelineJobRequest"} == {
        "displayName": "flowers",
        "cron": "TZ=Europe/Berlin 30 2 * * 1-5",
        "maxConcurrentRunCount": "1",
        "startTime": "2026-11-30T23:00:00Z",
        "endTime": "2027-11-30T23:00:00Z",
    }
    assert job["pipelineJob"]["serviceAccount"] == "runner@pictures"


@pytest.mark.parametrize("platform", ["kubeflow", "vertex"])
def test_a_schedule_is_paused_resumed_and_deleted(server: Loopback, platform: str) -> None:
    settings = config(platform, server.address)
    client = connect(settings)
    first = client.create_schedule(JOB, settings.schedule)
    client.create_schedule(JOB, settings.schedule)
    assert len(client.list_schedules("flowers")) == 2, "they come in pages of one"

    def states() -> dict[str, str]:
        return {item.id: item.state for item in client.list_schedules("flowers")}

    client.set_active(first.id, active=False)
    assert states()[first.id] == "paused"
    client.set_active(first.id, active=True)
    assert states()[first.id] == "active"
    if platform == "vertex":
        (resumed,) = [r for r in server.requests if r.path.endswith(":resume")]
        assert resumed.body == {}, "which is without the missed runs"
    client.delete_schedule(first.id)
    assert first.id not in states()
    with pytest.raises(ServiceError, match=r"not found \(HTTP 404\); check project"):
        client.delete_schedule(first.id)


GOOGLE = {"error": {"code": 429, "message": "Quota exceeded for\nrunning jobs."}}


@pytest.mark.parametrize(
    ("platform", "status", "answer", "line"),
    [
        ("vertex", 429, GOOGLE, "Vertex: Quota exceeded for running jobs (HTTP 429); the quota"),
        ("vertex", 403, {"error": {"message": "Permission denied on x."}},
         "Vertex: Permission denied on x (HTTP 403); ask for the rights of this account"),
        ("vertex", 401, {"error": {"message": "Invalid."}}, "sign in, or renew the token"),
        ("vertex", 200, "<html>", "answered, but not in JSON; is it the right address?"),
        ("kubeflow", 401, "no", "Kubeflow: Unauthorized (HTTP 401); sign in"),
        ("kubeflow", 500, {"message": "boom"}, "Kubeflow: boom (HTTP 500); try again later"),
        ("kubeflow", 200, "<html>", "answered, but not in JSON; is it the right address?"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line(
    server: Loopback, platform: str, status: int, answer: Any, line: str
) -> None:
    server.refuse = (status, answer)
    with pytest.raises(ServiceError) as refused:
        connect(config(platform, server.address)).submit(JOB, force=False)
    assert line in cause(refused.value)
    assert "\n" not in cause(refused.value)
    assert "s3cret" not in cause(refused.value)
    assert fail(Terminal(), refused.value) == 1


@pytest.mark.parametrize(
    ("platform", "address"),
    [("kubeflow", "127.0.0.1:9/apis/v2beta1"), ("vertex", "127.0.0.1:9")],
)
def test_a_platform_that_is_not_there_is_one_line(
    server: Loopback, platform: str, address: str
) -> None:
    client = connect(config(platform, "http://127.0.0.1:9"))
    with pytest.raises(ServiceError, match=f"{address} can't be reached") as error:
        client.submit(JOB, force=False)
    assert "\n" not in str(error.value)


def test_a_missing_token_is_named(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERTEX_TOKEN")
    with pytest.raises(ServiceError, match="the environment has no VERTEX_TOKEN"):
        connect(config("vertex", server.address))


def test_missing_credentials_are_one_line(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    settings = config("vertex", server.address)
    assert settings.cluster is not None
    assert settings.cluster.vertex is not None
    vertex = settings.cluster.vertex.model_copy(update={"token_variable": None})
    cluster = settings.cluster.model_copy(update={"vertex": vertex})
    with pytest.raises(ServiceError, match="gcloud auth application-default login") as error:
        connect(settings.model_copy(update={"cluster": cluster}))
    assert "\n" not in str(error.value)


def test_the_value_of_a_secret_is_refused_and_not_shown() -> None:
    environment = {"STORE_TOKEN": "pl4nted-value", "HOME": "/home/long-enough", "X_TOKEN": "abc"}
    with pytest.raises(ConfigError, match="holds the value of \\$STORE_TOKEN") as refused:
        refuse_secrets("... pl4nted-value ...", environment, what="the specification")
    assert "pl4nted" not in str(refused.value)
    with pytest.raises(ConfigError, match="holds a private key"):
        refuse_secrets("-----BEGIN RSA PRIVATE KEY-----", {}, what="the specification")
    refuse_secrets("/home/long-enough abc", environment, what="the specification")
