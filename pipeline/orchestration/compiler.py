"""Compiles the pipeline for Kubeflow and Vertex to IR 2.1, as JSON or YAML.

TFX's Kubeflow v2 compiler supports neither custom drivers nor custom resolvers, and a schedule
starts the same specification every day. The compiled pipeline therefore has a first step that
determines which images exist (`InputState`, never cached), and all other steps are in a DAG that
runs only if that step found a reason. Fingerprint and span are passed as parameters, so they are
part of the cache key.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base import base_component, base_node, executor_spec
from tfx.orchestration import data_types
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from components.image_example_gen.executor import FINGERPRINT, INPUT_CONFIG, SPAN
from components.pushed_baseline.executor import BaselineEvaluator
from components.retraining.component import InputState
from components.retraining.history import history_path
from components.tfx_api import tfx
from pipeline.config import BeamConfig, ConfigError, PipelineConfig
from pipeline.graph import create_pipeline
from pipeline.model_steps import CLUSTER_BASELINE
from pipeline.orchestration.config import ClusterConfig
from pipeline.orchestration.reach import require_reach
from pipeline.orchestration.resources import (
    beam_arguments,
    container_resources,
    container_settings,
    limited_command,
    pod_config,
    retry_policy,
    train_on_workers,
)
from pipeline.orchestration.step_settings import ACCELERATED_STEPS
from pipeline.places import Places
from pipeline.runs.step import LABELLED_ONLY_EVALUATOR

INPUT_STATE = "InputState"
RETRAIN = "retrain"
"""Name of the DAG with all steps but the first."""
REASON = "reason"
EXPLANATION = "explanation"
FORCE = "force"
"""Name of the specification's only parameter; 1 trains even without a reason."""
_ENTRY = ["python", "-m", "pipeline.orchestration.step_entry"]
_SPAN_TYPES = {INPUT_CONFIG: str, FINGERPRINT: str, SPAN: int}
_TYPES = {str: "STRING", int: "NUMBER_INTEGER"}
# These steps read state outside the metadata store.
_NEVER_CACHED = (INPUT_STATE, CLUSTER_BASELINE)


def compile_pipeline(
    config: PipelineConfig, *, code_digest: str | Mapping[str, str]
) -> dict[str, Any]:
    """Compiles a configuration.

    Args:
        config: The configuration, with a `cluster` section.
        code_digest: Digest of the project's code in the image, by step or one for all steps.

    Returns:
        A PipelineJob as JSON-compatible values: `pipelineSpec`, `runtimeConfig` and, if pods of
        Kubeflow get secrets, a node selector or a deadline, `platforms`.

    Raises:
        ConfigError: The configuration cannot run on a cluster.
    """
    cluster = require_reach(config)
    given = {name: data_types.RuntimeParameter(name=name, ptype=kind)
             for name, kind in _SPAN_TYPES.items()}  # fmt: skip
    history = history_path(cluster.pipeline_root, config.name)
    pipeline = create_pipeline(
        config.model_copy(update={"beam": BeamConfig(args=beam_arguments(config))}),
        places=Places(artifacts=cluster.pipeline_root, input_state=given, history=history),
        code_digest=code_digest,
    )
    _check_steps(config, cluster, [INPUT_STATE, *(node.id for node in pipeline.components)])
    for node in pipeline.components:
        _adapt(node, cluster)
    spec = _compile(pipeline, cluster)
    _uncache(spec["root"]["dag"]["tasks"])
    first = _compile(_state_pipeline(config, cluster, history), cluster)
    _put_under_condition(spec, first)
    job = {
        "displayName": config.name,
        "pipelineSpec": spec,
        "runtimeConfig": {
            "gcsOutputDirectory": cluster.pipeline_root,
            "parameterValues": {FORCE: 0},
        },
    }
    if platforms := _platforms(spec, cluster):
        job["platforms"] = platforms
    return job


def validate(job: Mapping[str, Any]) -> None:
    """Validates a specification against the published proto.

    Raises:
        ConfigError: The specification is invalid.
    """
    try:
        spec = pipeline_spec_pb2.PipelineSpec()
        json_format.ParseDict(job["pipelineSpec"], spec)
        deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
        json_format.ParseDict(json_format.MessageToDict(spec.deployment_spec), deployment)
        if "platforms" in job:
            platform = pipeline_spec_pb2.PlatformSpec()
            json_format.ParseDict({"platforms": job["platforms"]}, platform)
    except json_format.ParseError as error:
        raise ConfigError(f"the compiled specification is not valid: {error}") from error


def to_text(job: Mapping[str, Any], *, as_yaml: bool) -> str:
    """Formats a PipelineJob as JSON for Vertex, or a PipelineSpec as YAML for KFP."""
    if not as_yaml:
        return json.dumps(job, indent=1, sort_keys=True) + "\n"
    documents = [job["pipelineSpec"]]
    if "platforms" in job:
        documents.append({"platforms": job["platforms"]})
    return str(yaml.safe_dump_all(documents, sort_keys=True, allow_unicode=True))


def _check_steps(config: PipelineConfig, cluster: ClusterConfig, names: Sequence[str]) -> None:
    """Checks that each entry of `cluster.per_step` names a step that can use it."""
    beam = "local" if cluster.dataflow is None else "Dataflow"
    engines = {
        "Evaluator": beam,
        LABELLED_ONLY_EVALUATOR: beam,
        "BulkInference": config.bulk.engine.runner,
    }
    for name, settings in cluster.per_step.items():
        key = f"cluster.per_step.{name}"
        if name not in names:
            raise ConfigError(
                f"{key}: this pipeline has no such step; its steps are {', '.join(names)}"
            )
        if settings.accelerator is None:
            continue
        if name not in ACCELERATED_STEPS:
            raise ConfigError(
                f"{key}.accelerator: {name} uses none; those that run the model do:"
                f" {', '.join(ACCELERATED_STEPS)}"
            )
        if engines.get(name, "local") != "local":
            raise ConfigError(
                f"{key}.accelerator: {name} runs on {engines[name]}, so its own container would not"
                " use one; remove the key"
            )


def _state_pipeline(config: PipelineConfig, cluster: ClusterConfig, history: str) -> Any:
    state = InputState(
        patterns=config.input.model_dump_json(),
        rules=config.retrain.model_dump_json(),
        history=history,
        force=data_types.RuntimeParameter(name=FORCE, ptype=int),
    ).with_id(INPUT_STATE)
    _adapt(state, cluster)
    return tfx.dsl.Pipeline(
        pipeline_name=config.name, pipeline_root=cluster.pipeline_root, components=[state]
    )


def _adapt(node: base_node.BaseNode, cluster: ClusterConfig) -> None:
    """Sets a step's container resources and the executors that a cluster needs."""
    if not isinstance(node, base_component.BaseComponent):
        return
    node.platform_config = container_resources(container_settings(cluster, node.id))
    if isinstance(node, tfx.components.Trainer) and cluster.trainer.workers > 1:
        train_on_workers(node, cluster)
    if isinstance(node, tfx.components.Evaluator):
        arguments = node.executor_spec.beam_pipeline_args
        node.executor_spec = executor_spec.BeamExecutorSpec(BaselineEvaluator)
        node.executor_spec.add_beam_pipeline_args(arguments)


def _compile(pipeline: Any, cluster: ClusterConfig) -> dict[str, Any]:
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image=cluster.image, default_commands=_ENTRY, use_pipeline_spec_2_1=True
        )
    )
    spec = dict(runner.run(pipeline, write_out=False)["pipelineSpec"])
    beam = set(pipeline.beam_pipeline_args)
    for node in pipeline.components:
        container = spec["deploymentSpec"]["executors"][f"{node.id}_executor"]["container"]
        # The compiler passes Beam's options to every step.
        if not isinstance(node.executor_spec, executor_spec.BeamExecutorSpec):
            container["args"] = [part for part in container["args"] if part not in beam]
        settings = container_settings(cluster, node.id)
        if policy := retry_policy(settings, cluster.platform):
            spec["root"]["dag"]["tasks"][node.id]["retryPolicy"] = policy
        if cluster.platform == "vertex":
            # A pipeline of Vertex has no limit on a step; pods of Kubeflow have a deadline.
            container["command"] = limited_command(container["command"], settings.timeout_secs)
    return spec


def _uncache(tasks: dict[str, Any]) -> None:
    for name in _NEVER_CACHED:
        if name in tasks:
            tasks[name]["cachingOptions"] = {}


def _put_under_condition(spec: dict[str, Any], first: dict[str, Any]) -> None:
    """Moves the pipeline's root into a DAG conditional on the first step, as `dsl.If` does."""
    inputs = {name: {"parameterType": _TYPES[kind]} for name, kind in _SPAN_TYPES.items()}
    inputs[REASON] = {"parameterType": "STRING"}
    body = spec["root"]
    body["inputDefinitions"] = {"parameters": inputs}
    spec["components"][RETRAIN] = body
    spec["components"].update(first["components"])
    spec["deploymentSpec"]["executors"].update(first["deploymentSpec"]["executors"])
    outputs = spec["components"][INPUT_STATE]["outputDefinitions"]
    # TFX passes outputs to later steps as artifacts; conditions and cache keys need parameters.
    outputs["parameters"] = {**inputs, EXPLANATION: {"parameterType": "STRING"}}

    state = first["root"]["dag"]["tasks"][INPUT_STATE]
    state["cachingOptions"] = {}
    spec["root"] = {
        "inputDefinitions": {
            "parameters": {FORCE: {"parameterType": "NUMBER_INTEGER", "defaultValue": 0}}
        },
        "dag": {
            "tasks": {
                INPUT_STATE: state,
                RETRAIN: {
                    "taskInfo": {"name": RETRAIN},
                    "componentRef": {"name": RETRAIN},
                    "dependentTasks": [INPUT_STATE],
                    "inputs": {
                        "parameters": {
                            name: {
                                "taskOutputParameter": {
                                    "producerTask": INPUT_STATE,
                                    "outputParameterKey": name,
                                }
                            }
                            for name in inputs
                        }
                    },
                    "triggerPolicy": {"condition": f"inputs.parameter_values['{REASON}'] != ''"},
                },
            }
        },
    }


def _platforms(spec: Mapping[str, Any], cluster: ClusterConfig) -> dict[str, Any]:
    """Builds the part for Kubernetes, in the format of kfp-kubernetes; empty without any."""
    if cluster.platform != "kubeflow":
        return {}
    pods = {
        label: pod_config(cluster, container_settings(cluster, label.removesuffix("_executor")))
        for label, executor in spec["deploymentSpec"]["executors"].items()
        if "container" in executor
    }
    executors = {label: config for label, config in pods.items() if config}
    return {"kubernetes": {"deploymentSpec": {"executors": executors}}} if executors else {}
