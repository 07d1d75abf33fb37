"""What the `cluster:` and `schedule:` sections refuse before anything is sent."""

from typing import Any

import pytest

from pipeline.config import ConfigError, PipelineConfig, parse_config

IMAGE = "registry.example/vaeline@sha256:" + "0" * 64
VERTEX = {"project": "p", "region": "us-central1"}
ON_VERTEX = {"platform": "vertex", "vertex": VERTEX}
T4, L4 = "NVIDIA_TESLA_T4", "NVIDIA_L4"
DATAFLOW = {"project": "p", "region": "us-west1", "temp_location": "gs://b/tmp"}


def parse(cluster: dict[str, Any] | None = None, **schedule: Any) -> PipelineConfig:
    tree: dict[str, Any] = {"input": {"paths": "gs://b/a.zip"}, "schedule": schedule}
    if cluster is not None:
        tree["cluster"] = {
            "platform": "kubeflow", "image": IMAGE, "pipeline_root": "gs://b/r", **cluster
        }  # fmt: skip
    return parse_config(tree)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"image": "Not An Image"}, "cluster.image: expected HOST/PATH/NAME@sha256:DIGEST"),
        ({"image": "registry.example/a//b:1"}, "cluster.image: expected HOST/PATH/NAME"),
        ({"image": "registry.example/a:b:c"}, "cluster.image: expected HOST/PATH/NAME"),
        ({"platform": "vertex"}, "cluster.vertex is missing"),
        ({"pipeline_root": "/tmp/r"}, "cluster.pipeline_root"),
        ({**ON_VERTEX, "pipeline_root": "s3://b"}, "cluster.pipeline_root: the steps' TensorFlow"),
        ({"pipeline_root": "s3://b/r"}, "no file system s3://; give gs://BUCKET/FOLDER"),
        ({"pipeline_root": "minio://mlpipeline/v2/artifacts"}, "no file system minio://"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "project": "My Project"}}, "expected a project's iden"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "network": "default"}}, "expected projects/NUMBER/glo"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "service_account": "runs"}}, "expected an address"),
        ({"dataflow": {**DATAFLOW, "project": "p-"}}, "cluster.dataflow.project: expected a proj"),
        ({"dataflow": {**DATAFLOW, "service_account": "w"}}, "service_account: expected an addre"),
        ({"pipeline_root": "hdfs://name/r"}, "no file system hdfs://"),
        ({"pipeline_root": "gs://"}, "cluster.pipeline_root: expected gs://BUCKET"),
        ({"pipeline_root": "gs:///runs"}, "cluster.pipeline_root: expected gs://BUCKET"),
        ({"pipeline_root": "gs://My Bucket/r"}, "cluster.pipeline_root: expected gs://BUCKET"),
        ({"pipeline_root": "gs:/b/r"}, "cluster.pipeline_root: expected gs://BUCKET"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "region": "europe"}}, "europe-west3, europe-west4"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "region": "us-central1-a"}}, "us-central1, us-east1"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "region": "global"}}, "expected one region of Vertex"),
        ({"dataflow": {**DATAFLOW, "region": "europe"}}, "cluster.dataflow.region: expected a reg"),
        ({"dataflow": {**DATAFLOW, "temp_location": "gs://"}}, "temp_location: expected gs://BUC"),
        ({"trainer": {"workers": 2}}, "more than one needs platform vertex"),
        ({"dataflow": DATAFLOW, "pipeline_root": "s3://b"}, "no file system s3://"),
        ({"dataflow": {**DATAFLOW, "temp_location": "/tmp"}}, "cluster.dataflow.temp_location"),
        ({"dataflow": {"project": "p"}}, "cluster.dataflow.region"),
        ({"trainer": {"accelerators": 0}}, "cluster.trainer.accelerators"),
        ({"steps": {"memory": 3}}, "unknown key; did you mean memory_gb"),
        ({"per_step": {"Tuner": {"accelerater": T4}}}, "Tuner.accelerater: unknown key; did you"),
        (
            {"secrets": [{"name": "s", "key": "k", "variabel": "A"}]},
            "cluster.secrets.0.variabel: unknown key; did you mean variable",
        ),
        ({"secrets": [{"name": "s", "key": "k", "variable": "a b"}]}, "capitals, digits and _"),
        ({"secrets": [{"name": "My_Secret", "key": "k", "variable": "A"}]}, "name of Kubernetes"),
        ({"secrets": [{"name": "s", "key": "a b", "variable": "A"}]}, "secrets.0.key: expected"),
        (
            {"secrets": [{"name": name, "key": "k", "variable": "A"} for name in "st"]},
            "cluster.secrets: two of them are for the variable A",
        ),
        (
            {"kubeflow": {"endpoint": "http://k", "namespace": "My NS"}},
            "cluster.kubeflow.namespace: expected a name of Kubernetes",
        ),
        (
            {"kubeflow": {"endpoint": "http://k", "service_account": "a@b"}},
            "cluster.kubeflow.service_account: expected a name of Kubernetes",
        ),
        ({"kubeflow": {"endpoint": "http://k", "namespace": "a.b"}}, "namespace: expected a name"),
        ({"kubeflow": {"endpoint": "http://k", "time_zone": "Mars"}}, "no time zone of that name"),
        ({"kubeflow": {"endpoint": "http://"}}, "endpoint: expected http:// or https:// with a"),
        ({**ON_VERTEX, "vertex": {**VERTEX, "endpoint": "a b"}}, "endpoint: expected http:// or"),
        ({"secrets": [{"name": "a..b", "key": "k", "variable": "A"}]}, "name of Kubernetes"),
        ({"dataflow": {**DATAFLOW, "machine_type": "big"}}, "machine_type: expected a machine"),
        ({"dataflow": {**DATAFLOW, "worker_image": "An Image"}}, "worker_image: expected HOST/"),
        ({"dataflow": {**DATAFLOW, "subnetwork": "s"}}, "subnetwork: expected regions/REGION"),
        ({"trainer": {"machine_type": "n1-standard-4"}}, "that of several workers on Vertex"),
        (
            {"platform": "vertex", "vertex": VERTEX,
             "secrets": [{"name": "s", "key": "k", "variable": "A"}]},
            "secrets are for Kubeflow",
        ),
    ],
)  # fmt: skip
def test_a_cluster_that_cannot_work_is_refused(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(cluster)
    assert message in str(refused.value)
    assert str(refused.value).count("cluster.pipeline_root:") <= 1


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            {"kubeflow": {"endpoint": "http://k", "token_variable": "eyJ.hunter2-x"}},
            "cluster.kubeflow.token_variable: expected the name of an environment variable",
        ),
        (
            {**ON_VERTEX, "vertex": {**VERTEX, "token_variable": "ya29.hunter2"}},
            "cluster.vertex.token_variable: expected the name of an environment variable",
        ),
        (
            {"kubeflow": {"endpoint": "https://me:hunter2@k/pipeline"}},
            "cluster.kubeflow.endpoint: expected http:// or https:// with a host",
        ),
    ],
)
def test_a_secret_in_place_of_a_name_is_refused_and_not_shown(
    cluster: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(cluster)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "image",
    [
        "vaeline",
        "vaeline:v1.0-RC1_b",
        "localhost:5000/vaeline",
        "gcr.io/example.com/project/my__steps/a-b.c@sha256:" + "a" * 64,
        "registry.example:443/vaeline:Release@sha256:" + "a" * 64,
    ],
)
def test_every_name_of_an_image_is_accepted(image: str) -> None:
    assert parse({"image": image}).cluster


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"accelerator": T4, "accelerators": 3}, f"has 1, 2 or 4 {T4}, not 3"),
        ({"accelerator": T4, "accelerators": 8}, f"has 1, 2 or 4 {T4}, not 8"),
        ({"accelerator": "NVIDIA_H200_141GB"}, "has 8 NVIDIA_H200_141GB, not 1"),
        ({"accelerator": "nvidia.com/gpu"}, f"Vertex has no nvidia.com/gpu; it has {T4}, "),
        ({"accelerator": "T4"}, f"Vertex has no T4; it has {T4}, "),
        ({"accelerator": "nvidia_tesla_t4"}, f"Vertex has no nvidia_tesla_t4; it has {T4}"),
        ({"accelerator": "NVIDIA_TESLA_K80"}, "Vertex has no NVIDIA_TESLA_K80"),
        ({"accelerator": "TPU_V3", "accelerators": 8}, "Vertex has no TPU_V3"),
        ({"accelerators": 2}, "cluster.trainer.accelerator is missing"),
        ({"workers": 2, "accelerator": L4}, f"n1-standard-8 has no {L4}; 1 of them are in g2-"),
        (
            {"workers": 2, "accelerator": L4, "accelerators": 2, "machine_type": "g2-standard-8"},
            f"g2-standard-8 has 1 {L4}; set",
        ),
        ({"workers": 2, "machine_type": "a2-highgpu-4g"}, "a2-highgpu-4g has 4 NVIDIA_TESLA_A100"),
        ({"workers": 2, "accelerator": T4, "machine_type": "n2-standard-8"}, "of the series n1"),
        (
            {"workers": 2, "accelerator": "NVIDIA_TESLA_V100", "machine_type": "n1-standard-16"},
            "1 NVIDIA_TESLA_V100 need a machine of up to 12 cores: n1-standard-16",
        ),
        ({"workers": 2, "machine_type": "big"}, "big is no machine type"),
    ],
)
def test_accelerators_that_vertex_does_not_have_are_refused(
    trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse({**ON_VERTEX, "trainer": trainer})
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "trainer",
    [
        {"accelerator": T4, "accelerators": 4},
        {"accelerator": "NVIDIA_TESLA_V100", "accelerators": 8},
        {"accelerator": "NVIDIA_H100_80GB", "accelerators": 8},
        {"workers": 2},
        {"workers": 2, "machine_type": "e2-standard-4"},
        {"workers": 2, "accelerator": T4, "accelerators": 2},
        {"workers": 2, "accelerator": T4, "machine_type": "n1-highmem-32"},
        {"workers": 4, "accelerator": L4, "machine_type": "g2-standard-8"},
        {"workers": 2, "accelerator": "NVIDIA_TESLA_A100", "accelerators": 16,
         "machine_type": "a2-megagpu-16g"},
    ],
)  # fmt: skip
def test_accelerators_that_vertex_has_are_accepted(trainer: dict[str, Any]) -> None:
    assert parse({**ON_VERTEX, "trainer": trainer}).cluster


def test_kubernetes_calls_accelerators_by_resources() -> None:
    for kind in ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "nvidia.com/mig-1g.5gb"):
        assert parse({"trainer": {"accelerator": kind, "accelerators": 3}}).cluster
    for kind in (T4, "gpu", "nvidia.com", "nvidia.com/"):
        with pytest.raises(ConfigError, match=r"is no resource of Kubernetes, such as nvidia\.com"):
            parse({"trainer": {"accelerator": kind}})


@pytest.mark.parametrize(
    "name", ["flowers-", "-flowers", "Flowers", "1flowers", "flow_ers", "flow ers", "f" * 64, ""]
)
def test_a_name_that_no_cluster_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name: expected 1 to 63 small letters, digits and hyph"):
        parse_config({"name": name, "input": {"paths": "a.zip"}})


@pytest.mark.parametrize("name", ["f", "flowers", "flowers-2", "f" * 63])
def test_names(name: str) -> None:
    assert parse_config({"name": name, "input": {"paths": "a.zip"}}).name == name


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"cron": "every day"}, "schedule.cron: expected five fields"),
        ({"cron": "0 3 * * * *"}, "schedule.cron: expected five fields"),
        ({"cron": "61 3 * * *"}, "schedule.cron: minute: 61 is not between 0 and 59"),
        ({"time_zone": "Berlin"}, "no time zone of that name"),
        ({"start": "2026-12-02", "end": "2026-12-01"}, "schedule.end is not after schedule.start"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(**schedule)
    assert message in str(refused.value)


def test_a_time_without_a_zone_is_the_schedules(tmp_path: Any) -> None:
    schedule = parse(time_zone="Europe/Berlin", start="2026-12-01T00:00:00").schedule
    start = schedule.instant(schedule.start)
    assert start is not None
    assert start.isoformat() == "2026-12-01T00:00:00+01:00"
