"""Resources, retries and timeouts of each step: in the specification, refused, and enforced."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline.config import ConfigError, parse_config
from pipeline.orchestration.compiler import compile_pipeline
from pipeline.orchestration.resources import limited_command
from tests.pipeline.orchestration import golden

T4, L4, GPU = "NVIDIA_TESLA_T4", "NVIDIA_L4", "nvidia.com/gpu"
HOUR, DAY, MONTH = 3600, 86400, 2592000


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    names = ("local", "kubeflow_gpu", "gpu", "multi_worker")
    return {name: json.loads(json.dumps(golden.compiled(name))) for name in names}


def tasks(job: dict[str, Any]) -> dict[str, pipeline_spec_pb2.PipelineTaskSpec]:
    """Parses the tasks of all steps, with no field that the proto lacks."""
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    dags = [spec.root.dag, spec.components["retrain"].dag]
    return {name: task for dag in dags for name, task in dag.tasks.items() if name != "retrain"}


def containers(job: dict[str, Any]) -> dict[str, Any]:
    deployment = json_format.ParseDict(
        job["pipelineSpec"]["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig()
    )
    executors = deployment.executors.items()
    return {label.removesuffix("_executor"): value.container for label, value in executors}


def pods(job: dict[str, Any]) -> dict[str, Any]:
    platforms = job.get("platforms")
    if platforms is None:
        return {}
    executors = platforms["kubernetes"]["deploymentSpec"]["executors"]
    return {label.removesuffix("_executor"): config for label, config in executors.items()}


STEP = (2, 8, None, 0)
TRAINER = (4, 16, None, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("local", {"Trainer": TRAINER, "Transform": (2, 24, None, 0)}),
        (
            "kubeflow_gpu",
            {
                "Trainer": (8, 30, GPU, 3),
                "Tuner": (8, 30, GPU, 1),
                "ServingCheck": (2, 8, GPU, 1),
                "BulkInference": (2, 8, GPU, 1),
            },
        ),
        (
            "gpu",
            {
                "Trainer": (8, 30, T4, 2),
                "Tuner": (8, 30, T4, 1),
                "ServingCheck": (2, 8, T4, 1),
                "BulkInference": (48, 8, L4, 4),
            },
        ),
        # The accelerators are those of the workers.
        ("multi_worker", {}),
    ],
)
def test_each_step_gets_its_size_and_accelerators(
    jobs: dict[str, Any], name: str, expected: dict[str, Any]
) -> None:
    found = {}
    for step, container in containers(jobs[name]).items():
        resources = container.resources
        kind, count = resources.accelerator.type or None, resources.accelerator.count
        found[step] = (resources.cpu_limit, resources.memory_limit, kind, count)
    assert found == {step: expected.get(step, STEP) for step in found}
    assert set(expected) <= set(found)


@pytest.mark.parametrize(
    ("name", "every", "expected"),
    [
        # Kubeflow limits the time of all attempts, not that of a pause.
        ("local", (2, 60, 2, MONTH), {"Trainer": None, "Transform": None}),
        ("kubeflow_gpu", None, {"Trainer": (1, 300, 1, MONTH)}),
        ("gpu", (2, 60, 2, HOUR), {"Trainer": (1, 60, 2, 600), "ServingCheck": None}),
        ("multi_worker", None, {"Trainer": (3, 60, 2, HOUR)}),
    ],
)
def test_each_step_gets_its_retries(
    jobs: dict[str, Any], name: str, every: Any, expected: dict[str, Any]
) -> None:
    found = {}
    for step, task in tasks(jobs[name]).items():
        policy = task.retry_policy
        found[step] = (
            policy.max_retry_count,
            policy.backoff_duration.seconds,
            policy.backoff_factor,
            policy.backoff_max_duration.seconds,
        ) if task.HasField("retry_policy") else None  # fmt: skip
    assert found == {step: expected.get(step, every) for step in found}
    assert {"InputState", "Trainer", "Pusher"} <= set(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("local", {"Trainer": None}),
        ("kubeflow_gpu", {"Trainer": DAY, "Tuner": DAY // 2}),
        ("gpu", {"Trainer": DAY, "Tuner": DAY // 2}),
        # The job of the workers ends after a day; waiting for it, machines included, after two.
        ("multi_worker", {"Trainer": 2 * DAY}),
    ],
)
def test_each_step_gets_its_timeout(
    jobs: dict[str, Any], name: str, expected: dict[str, Any]
) -> None:
    every = HOUR if name == "local" else None
    entry = ["python", "-m", "pipeline.orchestration.step_entry"]
    found: dict[str, int | None] = {}
    for step, container in containers(jobs[name]).items():
        *limit, module, flag, command = container.command
        assert [module, flag, command] == entry
        deadline = pods(jobs[name]).get(step, {}).get("activeDeadlineSeconds")
        assert not (limit and deadline)
        found[step] = int(limit[-1]) if limit else deadline and int(deadline)
    assert found == {step: expected.get(step, every) for step in found}


def test_pods_of_kubeflow_get_their_node(jobs: dict[str, Any]) -> None:
    labels = {
        step: config["nodeSelector"]["labels"]
        for step, config in pods(jobs["kubeflow_gpu"]).items()
        if "nodeSelector" in config
    }
    assert labels == {
        "Trainer": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "BulkInference": {"pool": "batch"},
    }


@pytest.mark.parametrize("name", ["local", "kubeflow_gpu"])
def test_pods_fit_the_published_proto(jobs: dict[str, Any], name: str) -> None:
    message = kfp_kubernetes().KubernetesExecutorConfig
    configs = pods(jobs[name])
    assert configs
    for config in configs.values():
        parsed = json_format.ParseDict(config, message())
        assert json_format.MessageToDict(parsed) == config


def kfp_kubernetes() -> ModuleType:
    """Loads the proto of kfp-kubernetes without the SDK that its package imports."""
    package = importlib.util.find_spec("kfp.kubernetes")
    if package is None:
        pytest.skip(
            "no kfp-kubernetes: pip install --no-deps kfp-kubernetes (below 1.5 for protobuf 4)"
        )
    name = "kubernetes_executor_config_pb2"
    if name in sys.modules:
        return sys.modules[name]
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(base: str, **cluster: Any) -> str:
    configuration = golden.CONFIGURATIONS[base]
    with pytest.raises(ConfigError) as refused:
        compile_pipeline(
            parse_config(
                {**configuration, "cluster": {**configuration["cluster"], **cluster}}
            ),
            code_digest="c0de",
        )  # fmt: skip
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("step", "settings", "message"),
    [
        ("Tunner", {"cpu": 4}, "cluster.per_step.Tunner: this pipeline has no such step; its"),
        ("Trainer", {"cpu": 4}, "cluster.per_step.Trainer: its section is cluster.trainer"),
        ("Tuner", {"gpus": 1}, "cluster.per_step.Tuner.gpus: unknown key; known are cpu, mem"),
        ("Tuner", {"accelerators": 2}, "cluster.per_step.Tuner.accelerator is missing"),
        (
            "Tuner",
            {"accelerator": T4, "accelerators": 3},
            f"cluster.per_step.Tuner.accelerators: a machine of Vertex has 1, 2 or 4 {T4}, not 3",
        ),
        ("Tuner", {"accelerator": GPU}, f"per_step.Tuner.accelerator: Vertex has no {GPU}; it has"),
        (
            "ImageExampleGen",
            {"accelerator": T4},
            "cluster.per_step.ImageExampleGen.accelerator: ImageExampleGen uses none; those that",
        ),
        ("StatisticsGen", {"accelerator": T4}, "StatisticsGen uses none"),
        ("Transform", {"cpu": 128}, "Transform.cpu: a step of Vertex has up to 96 cores, not 128"),
        ("Transform", {"memory_gb": 640}, "has up to 624 GB of memory, not 640"),
        (
            "ServingCheck",
            {"accelerator": T4, "cpu": 64},
            f"ServingCheck.cpu: a step of Vertex with 1 {T4} has up to 48 cores, not 64",
        ),
        (
            "BulkInference",
            {"accelerator": L4, "memory_gb": 200},
            f"BulkInference.memory_gb: a step of Vertex with 1 {L4} has up to 128 GB of memory",
        ),
        ("Tuner", {"node_selector": {"pool": "gpu"}}, "node selectors are for Kubeflow"),
        ("Tuner", {"retries": {"count": -1}}, "cluster.per_step.Tuner.retries.count"),
        ("Tuner", {"retries": {"count": 2, "factor": 1.5}}, "per_step.Tuner.retries.factor"),
        ("Tuner", {"timeout_secs": 0}, "cluster.per_step.Tuner.timeout_secs"),
    ],
)
def test_what_a_step_of_vertex_cannot_get_is_refused(
    step: str, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal("gpu", per_step={step: settings})


@pytest.mark.parametrize(
    ("step", "settings", "message"),
    [
        ("Tuner", {"accelerator": T4}, f"Tuner.accelerator: {T4} is no resource of Kubernetes"),
        ("Tuner", {"retries": {"count": 1, "max_backoff_secs": 9}}, "can't limit a pause, only"),
        ("Tuner", {"node_selector": {"a b": "c"}}, "a b: c is no label of Kubernetes, such as"),
        ("Tuner", {"node_selector": {"pool": "-"}}, "pool: - is no label"),
        ("SchemaGen", {"accelerator": GPU}, "SchemaGen uses none"),
    ],
)
def test_what_a_step_of_kubeflow_cannot_get_is_refused(
    step: str, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal("kubeflow_gpu", per_step={step: settings})


def test_what_every_step_or_the_trainer_cannot_get_is_refused() -> None:
    assert "cluster.steps.cpu: a step of Vertex has" in refusal("gpu", steps={"cpu": 97})
    assert "cluster.trainer.memory_gb" in refusal("gpu", trainer={"memory_gb": 1000})
    assert "cluster.trainer.node_selector" in refusal("gpu", trainer={"node_selector": {"a": "b"}})
    dataflow = golden.CONFIGURATIONS["dataflow"]["cluster"]["dataflow"]
    assert "Evaluator runs on Dataflow, so its own container would not use one" in refusal(
        "gpu", dataflow=dataflow, per_step={"Evaluator": {"accelerator": T4}}
    )


def test_a_step_that_the_pipeline_does_not_have_is_named() -> None:
    line = refusal("multi_worker", per_step={"Tuner": {"cpu": 4}})
    assert "cluster.per_step.Tuner: this pipeline has no such step; its steps are Input" in line


def test_a_command_ends_when_its_time_is_over() -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert subprocess.run(limited_command(waiting, 1), capture_output=True).returncode == 124
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(limited_command(failing, 600), capture_output=True).returncode == 3
