"""Writes into a specification what steps get: size, accelerators, retries, workers, Dataflow.

`compiler.py` calls it; the values come from the `cluster:` section, already validated.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base import executor_spec
from tfx.extensions.google_cloud_ai_platform import constants
from tfx.extensions.google_cloud_ai_platform.trainer import executor as vertex_trainer
from tfx.types import standard_component_specs

from components.tfx_api import tfx
from pipeline.config import PipelineConfig
from pipeline.orchestration.config import TRAINERS, ClusterConfig
from pipeline.orchestration.step_settings import AcceleratedStep, PlatformName, StepSettings

_TFX_ENTRY = ["python", "-m", "tfx.scripts.run_executor"]
_GRACE_SECS: Final = 60
_PROVISIONING_SECS: Final = 24 * 3600
"""How much longer than its limit a job may exist, because it first waits for its machines."""
_LONGEST_PAUSE_SECS: Final = 3600
"""Vertex's default, https://cloud.google.com/vertex-ai/docs/pipelines/configure-retries."""
_RETRY_WINDOW_SECS: Final = 30 * 24 * 3600
"""On Kubeflow the same field limits all attempts together, from the start of the first one, and
without it nothing is retried: https://github.com/kubeflow/pipelines/issues/14245."""


def container_resources(settings: AcceleratedStep) -> Any:
    """Builds the resources of one step's container: the IR's ResourceSpec, with memory in GB."""
    spec = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec
    result = spec(cpu_limit=settings.cpu, memory_limit=settings.memory_gb)
    if settings.accelerator is not None:
        result.accelerator.CopyFrom(
            spec.AcceleratorConfig(type=settings.accelerator, count=settings.accelerators)
        )
    return result


def container_settings(cluster: ClusterConfig, step: str) -> AcceleratedStep:
    """Returns what the container of a step gets, which differs for a Trainer that only waits."""
    settings = cluster.settings(step)
    if step not in TRAINERS or cluster.trainer.workers == 1:
        return settings
    limit = settings.timeout_secs
    changes = {
        "cpu": cluster.steps.cpu,
        "memory_gb": cluster.steps.memory_gb,
        "accelerator": None,
        # The workers' job has its own limit. TFX waits forever for one that Vertex calls expired.
        "timeout_secs": None if limit is None else limit + _PROVISIONING_SECS,
    }
    return settings.model_copy(update=changes)


def retry_policy(settings: StepSettings, platform: PlatformName) -> dict[str, Any]:
    """Builds the retry policy of a task, empty if a failed step is not started again."""
    retries = settings.retries
    if retries is None or retries.count == 0:
        return {}
    longest = retries.max_backoff_secs or _LONGEST_PAUSE_SECS
    if platform == "kubeflow":
        longest = _RETRY_WINDOW_SECS
    return {
        "maxRetryCount": retries.count,
        "backoffDuration": f"{retries.backoff_secs}s",
        "backoffFactor": float(retries.factor),
        "backoffMaxDuration": f"{longest}s",
    }


def limited_command(command: Sequence[str], timeout_secs: int | None) -> list[str]:
    """Returns a command that ends with the exit code 124 when its time is over.

    SIGTERM lets the Trainer save its state; SIGKILL follows.
    """
    if timeout_secs is None:
        return list(command)
    return ["timeout", "--verbose", f"--kill-after={_GRACE_SECS}", str(timeout_secs), *command]


def pod_config(cluster: ClusterConfig, settings: StepSettings) -> dict[str, Any]:
    """Builds what kfp-kubernetes adds to a step's pod: secrets by name, node, deadline."""
    secrets = [
        {
            "secretName": secret.name,
            "keyToEnv": [{"secretKey": secret.key, "envVar": secret.variable}],
        }
        for secret in cluster.secrets
    ]
    config: dict[str, Any] = {"secretAsEnv": secrets} if secrets else {}
    if settings.node_selector:
        config["nodeSelector"] = {"labels": settings.node_selector}
    if settings.timeout_secs is not None:
        # As JSON writes an int64.
        config["activeDeadlineSeconds"] = str(settings.timeout_secs)
    return config


def train_on_workers(trainer: Any, cluster: ClusterConfig) -> None:
    """Makes the Trainer's step start a Vertex job on several machines and wait for it.

    Vertex sets TF_CONFIG on each machine; the first pool is the chief, as
    MultiWorkerMirroredStrategy expects.

    Args:
        trainer: TFX's Trainer, which is changed in place.
        cluster: The cluster's configuration, validated for platform vertex.
    """
    vertex, wanted = cluster.vertex, cluster.trainer
    if vertex is None:
        return
    machine: dict[str, Any] = {"machine_type": wanted.machine_type}
    if wanted.accelerator is not None:
        machine |= {
            "accelerator_type": wanted.accelerator,
            "accelerator_count": wanted.accelerators,
        }
    pool = {
        "machine_spec": machine,
        "container_spec": {"image_uri": cluster.image, "command": _TFX_ENTRY},
    }
    arguments: dict[str, Any] = {
        "project": vertex.project,
        "worker_pool_specs": [
            {**pool, "replica_count": 1},
            {**pool, "replica_count": wanted.workers - 1},
        ],
    }
    if vertex.service_account is not None:
        arguments["service_account"] = vertex.service_account
    if wanted.timeout_secs is not None:
        arguments["scheduling"] = {"timeout": f"{wanted.timeout_secs}s"}
    key = standard_component_specs.CUSTOM_CONFIG_KEY
    custom_config = json.loads(trainer.spec.exec_properties[key])
    custom_config |= {
        constants.ENABLE_VERTEX_KEY: True,
        constants.VERTEX_REGION_KEY: vertex.region,
        vertex_trainer.TRAINING_ARGS_KEY: arguments,
    }
    trainer.spec.exec_properties[key] = json.dumps(custom_config, sort_keys=True)
    trainer.executor_spec = executor_spec.ExecutorClassSpec(
        tfx.extensions.google_cloud_ai_platform.Trainer.EXECUTOR_SPEC.executor_class
    )


def beam_arguments(config: PipelineConfig) -> tuple[str, ...]:
    """Returns the Beam options of the steps: those of `beam.args`, or Dataflow's."""
    dataflow = config.cluster.dataflow if config.cluster is not None else None
    if dataflow is None or config.cluster is None:
        return config.beam.args
    arguments = [
        "--runner=DataflowRunner",
        f"--project={dataflow.project}",
        f"--region={dataflow.region}",
        f"--temp_location={dataflow.temp_location}",
        f"--max_num_workers={dataflow.max_workers}",
        "--experiments=use_runner_v2",
        # One Python process for all cores of a machine, so that they share the loaded model.
        "--experiments=no_use_multiple_sdk_containers",
        f"--sdk_container_image={dataflow.worker_image or config.cluster.image}",
        "--sdk_location=container",
    ]
    if dataflow.machine_type is not None:
        arguments.append(f"--worker_machine_type={dataflow.machine_type}")
    if dataflow.service_account is not None:
        arguments.append(f"--service_account_email={dataflow.service_account}")
    if dataflow.subnetwork is not None:
        arguments += [f"--subnetwork={dataflow.subnetwork}", "--no_use_public_ips"]
    return tuple(arguments)
