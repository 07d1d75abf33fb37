"""What the `cluster:` and `schedule:` sections refuse before anything is sent."""

from typing import Any

import pytest

from pipeline.config import ConfigError, PipelineConfig, parse_config

IMAGE = "registry.example/vaeline@sha256:" + "0" * 64
VERTEX = {"project": "p", "region": "r"}
DATAFLOW = {"project": "p", "region": "r", "temp_location": "gs://b/tmp"}


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
        ({"platform": "vertex"}, "cluster.vertex is missing"),
        ({"pipeline_root": "/tmp/r"}, "cluster.pipeline_root"),
        ({"platform": "vertex", "vertex": VERTEX, "pipeline_root": "s3://b"}, "in gs:// only"),
        ({"trainer": {"workers": 2}}, "more than one needs platform vertex"),
        ({"dataflow": DATAFLOW, "pipeline_root": "s3://b"}, "Dataflow reads artifacts from gs://"),
        ({"dataflow": {**DATAFLOW, "temp_location": "/tmp"}}, "cluster.dataflow.temp_location"),
        ({"dataflow": {"project": "p"}}, "cluster.dataflow.region"),
        ({"trainer": {"accelerators": 0}}, "cluster.trainer.accelerators"),
        ({"steps": {"memory": 3}}, "unknown key; did you mean memory_gb"),
        ({"secrets": [{"name": "s", "key": "k", "variable": "a b"}]}, "capitals, digits and _"),
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


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"cron": "every day"}, "schedule.cron: expected five fields"),
        ({"cron": "0 3 * * * *"}, "schedule.cron: expected five fields"),
        ({"cron": "61 3 * * *"}, "schedule.cron: expected five fields"),
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
