"""Sets the resources of steps on a cluster: cores, memory, accelerators, workers, Dataflow."""

import json
from typing import Any

from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base import executor_spec
from tfx.extensions.google_cloud_ai_platform import constants
from tfx.extensions.google_cloud_ai_platform.trainer import executor as vertex_trainer
from tfx.types import standard_component_specs

from components.tfx_api import tfx
from pipeline.config import PipelineConfig
from pipeline.orchestration.config import ClusterConfig

_TFX_ENTRY = ["python", "-m", "tfx.scripts.run_executor"]


def container_resources(cluster: ClusterConfig, *, is_trainer: bool) -> Any:
    """Builds the resources of one step's container.

    Args:
        cluster: The cluster's configuration.
        is_trainer: Whether the step trains in its own container and not on workers.

    Returns:
        The IR's ResourceSpec, with memory in GB.
    """
    spec = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec
    trains_here = is_trainer and cluster.trainer.workers == 1
    step = cluster.trainer if trains_here else cluster.steps
    result = spec(cpu_limit=step.cpu, memory_limit=step.memory_gb)
    if trains_here and cluster.trainer.accelerator is not None:
        result.accelerator.CopyFrom(
            spec.AcceleratorConfig(
                type=cluster.trainer.accelerator, count=cluster.trainer.accelerators
            )
        )
    return result


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
