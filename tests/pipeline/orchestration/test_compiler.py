"""The specification for Kubeflow and Vertex: fits the proto, says what was configured."""

import datetime
import json
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline.config import ConfigError, parse_config
from pipeline.orchestration.compiler import compile_pipeline, to_text, validate
from tests.pipeline.orchestration import golden

BEAM_STEPS = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator")


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    return {name: golden.compiled(name) for name in golden.CONFIGURATIONS}


@pytest.mark.parametrize("name", golden.CONFIGURATIONS)
def test_it_fits_the_published_proto(jobs: dict[str, Any], name: str) -> None:
    validate(jobs[name])
    job = json.loads(to_text(jobs[name], as_yaml=False))
    platforms = job.pop("platforms", None)
    parsed = json_format.ParseDict(job, pipeline_spec_pb2.PipelineJob())
    assert parsed.runtime_config.gcs_output_directory == job["runtimeConfig"]["gcsOutputDirectory"]
    assert (platforms is not None) == (name in ("local", "kubeflow_gpu"))
    first, *more = yaml.safe_load_all(to_text(jobs[name], as_yaml=True))
    spec = json_format.ParseDict(first, pipeline_spec_pb2.PipelineSpec())
    assert spec.schema_version == "2.1.0"
    for document in more:
        json_format.ParseDict(document, pipeline_spec_pb2.PlatformSpec())


@pytest.mark.parametrize("name", golden.CONFIGURATIONS)
def test_it_changes_only_on_purpose(jobs: dict[str, Any], name: str) -> None:
    expected = (golden.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert golden.as_text(jobs[name]) == expected, (
        "renew with `python -m tests.pipeline.orchestration.golden` if this is meant"
    )


def test_what_does_not_fit_is_refused(jobs: dict[str, Any]) -> None:
    job = json.loads(json.dumps(jobs["local"]))
    job["pipelineSpec"]["root"]["dag"]["taskz"] = {}
    with pytest.raises(ConfigError, match="taskz"):
        validate(job)


def containers(job: dict[str, Any]) -> dict[str, Any]:
    executors = job["pipelineSpec"]["deploymentSpec"]["executors"]
    return {label.removesuffix("_executor"): e["container"] for label, e in executors.items()}


def test_every_step_runs_the_image_that_is_named_by_digest(jobs: dict[str, Any]) -> None:
    for job in jobs.values():
        assert {container["image"] for container in containers(job).values()} == {golden.IMAGE}


def test_workers_train_in_a_job_of_their_own(jobs: dict[str, Any]) -> None:
    # Its import takes two seconds, which every process of the suite would spend.
    from google.cloud import aiplatform_v1 as vertex_api

    job = jobs["multi_worker"]
    trainer = containers(job)["Trainer"]
    assert "google_cloud_ai_platform" in trainer["args"][1]
    assert "accelerator" not in trainer["resources"], "the step only waits"
    assert trainer["resources"]["cpuLimit"] == 2
    tasks = job["pipelineSpec"]["components"]["retrain"]["dag"]["tasks"]
    constant = tasks["Trainer"]["inputs"]["parameters"]["custom_config"]["runtimeValue"]
    custom_config = json.loads(constant["constant"])
    arguments = custom_config["ai_platform_training_args"]
    assert arguments.pop("project") == "pictures", "TFX takes it out"
    job = vertex_api.CustomJob({"job_spec": arguments})
    assert job.job_spec.scheduling.timeout == datetime.timedelta(days=1)
    chief, workers = arguments["worker_pool_specs"]
    assert (chief["replica_count"], workers["replica_count"]) == (1, 3)
    assert chief["machine_spec"]["accelerator_type"] == "NVIDIA_L4"
    assert custom_config["ai_platform_enable_vertex"] is True
    assert json.loads(custom_config["training"])["image"]["height"] == 28


def test_dataflow_is_the_engine_of_the_beam_steps(jobs: dict[str, Any]) -> None:
    for name, container in containers(jobs["dataflow"]).items():
        assert ("--runner=DataflowRunner" in container["args"]) == (name in BEAM_STEPS), name
    arguments = containers(jobs["dataflow"])["Transform"]["args"]
    assert f"--sdk_container_image={golden.IMAGE}" in arguments
    assert "--no_use_public_ips" in arguments
    assert "--runner=FnApiRunner" in containers(jobs["local"])["Transform"]["args"]


def test_new_images_reach_the_caches_key(jobs: dict[str, Any]) -> None:
    spec = jobs["local"]["pipelineSpec"]
    tasks = spec["components"]["retrain"]["dag"]["tasks"]
    for name in ("input_fingerprint", "span", "input_config"):
        source = tasks["ImageExampleGen"]["inputs"]["parameters"][name]
        assert source == {"componentInputParameter": name}
    cached = {n for n, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert set(tasks) - cached == {"baseline-model"}
    root = spec["root"]["dag"]["tasks"]
    assert root["InputState"]["cachingOptions"] == {}
    assert root["retrain"]["triggerPolicy"] == {
        "condition": "inputs.parameter_values['reason'] != ''"
    }


def test_a_run_that_goes_on_starts_from_the_model_that_it_started_from() -> None:
    warm = {**golden.CONFIGURATIONS["local"], "trainer": {"warm_start": True}}
    job = compile_pipeline(parse_config(warm), code_digest="c0de")
    validate(job)
    tasks = job["pipelineSpec"]["components"]["retrain"]["dag"]["tasks"]
    base = tasks["base-model"]
    # What is pushed changes; for the same images the platform's cache keeps to what was chosen.
    assert base["cachingOptions"] == {"enableCache": True}
    assert base["inputs"]["parameters"] == {
        "directory": {"runtimeValue": {"constant": "/mnt/pushed"}},
        "input_fingerprint": {"componentInputParameter": "input_fingerprint"},
    }
    source = tasks["Trainer"]["inputs"]["artifacts"]["base_model"]["taskOutputArtifact"]
    assert source == {"producerTask": "base-model", "outputArtifactKey": "model"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {"paths": "/home/me/a.zip"}}, "input.paths: /home/me/a.zip is on this machine"),
        ({"push": {"directory": "pushed"}}, "push.directory: pushed is on this machine"),
        (
            {"input": {"paths": "gs://b/a.zip", "labels": {"corrections": "/home/me/c.csv"}}},
            "input.labels.corrections: /home/me/c.csv is on this machine",
        ),
        ({"input": {"paths": "s3://b/a.zip"}}, "input.paths: s3://b/a.zip needs credentials that"),
        (
            {"input": {"paths": "hdfs://b/a"}},
            "input.paths: hdfs://b/a: the steps have no such",
        ),
        ({"schema": {"path": "s3://b/s"}}, "schema.path: s3://b/s: the steps have no such file"),
        (
            {"bulk": {"in_pipeline": True, "input": {"paths": "/home/me/b.zip"}}},
            "bulk.input.paths: /home/me/b.zip is on this machine",
        ),
        (
            {
                "image": {"height": 32, "width": 32},
                "model": {"encoder": "backbone", "backbone": {"weights": "/home/me/a.weights.h5"}},
            },
            "model.backbone.weights: /home/me/a.weights.h5 is on this machine",
        ),
        ({"cluster": None}, "cluster: the section is missing"),
        ({"input": {"paths": "gs:///a.zip"}}, "input.paths: gs:///a.zip: expected gs://BUCKET or"),
    ],
)
def test_what_vertex_cannot_read_is_named(change: dict[str, Any], message: str) -> None:
    config = parse_config({**golden.CONFIGURATIONS["gpu"], **change})
    with pytest.raises(ConfigError, match=message):
        compile_pipeline(config, code_digest="c0de")


def test_a_relative_path_would_be_lost_with_the_container() -> None:
    tree = {**golden.CONFIGURATIONS["local"], "push": {"directory": "pushed"}}
    with pytest.raises(ConfigError, match=r"push\.directory: pushed is relative; give an address"):
        compile_pipeline(parse_config(tree), code_digest="c0de")


def test_kubeflow_steps_reach_s3_with_their_secrets() -> None:
    tree = golden.CONFIGURATIONS["local"]
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    secrets = [{"name": "minio", "key": name, "variable": name} for name in names]
    changes = {
        "input": {"paths": "minio://images/a.zip"},
        "push": {"directory": "s3://models/digits"},
        "cluster": {**tree["cluster"], "secrets": secrets},
    }
    job = compile_pipeline(parse_config({**tree, **changes}), code_digest="c0de")
    validate(job)
    assert "s3://models/digits" in str(job["pipelineSpec"])
    with pytest.raises(ConfigError, match=r"^bulk.input.paths: s3://b/c: Dataflow's workers have"):
        compile_pipeline(
            parse_config(
                {
                    **tree,
                    "bulk": {"in_pipeline": True, "input": {"paths": "s3://b/c"}},
                    "cluster": {
                        **tree["cluster"],
                        "dataflow": {
                            "project": "p", "region": "us-west1", "temp_location": "gs://b/tmp"
                        },
                    },
                }
            ),
            code_digest="c0de",
        )  # fmt: skip
