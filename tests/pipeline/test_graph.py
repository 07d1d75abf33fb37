"""The DAG: its steps, and what its cache keys hold."""

import json
from typing import Any

import pytest
from tfx.dsl.components.common.resolver import RESOLVER_CONFIG

from components.image_example_gen.executor import FINGERPRINT, INPUT_CONFIG, SPAN
from pipeline.config import ConfigError, PipelineConfig, parse_config
from pipeline.evaluation import SLICES_MODULE, create_eval_config
from pipeline.graph import create_pipeline
from pipeline.model_steps import BASE, BASELINE, CLUSTER_BASE, CLUSTER_BASELINE
from pipeline.places import Places
from pipeline.step_digests import STEP_MODULES

STEPS = [
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "AnomalyGate",
    "Transform",
    "Trainer",
    "ServingCheck",
    "baseline_model",
    "Evaluator",
    "ModelGate",
    "Pusher",
]


def config(**sections: Any) -> PipelineConfig:
    return parse_config({"input": {"paths": "archive.zip"}, **sections})


def properties(
    configuration: PipelineConfig, code_digest: str = "code"
) -> dict[str, dict[str, Any]]:
    """Exec properties by step: with its inputs they are a step's cache key."""
    places = Places(artifacts="/nowhere")
    dag = create_pipeline(configuration, places=places, code_digest=code_digest)
    return {step.id: dict(step.exec_properties) for step in dag.components}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {step for step in before if before[step] != after[step]}


def test_every_step_is_there_in_order() -> None:
    assert list(properties(config())) == STEPS


def test_a_curated_schema_takes_the_place_of_the_inferred_one() -> None:
    steps = list(properties(config(schema={"path": "schema.pbtxt"})))
    assert "ImportSchemaGen" in steps
    assert "SchemaGen" not in steps


def test_an_edited_schema_is_read_again() -> None:
    curated = config(schema={"path": "schema.pbtxt"})
    before, after = (
        {step.id: dict(step.exec_properties)
         for step in create_pipeline(curated, code_digest="code",
                                     places=Places(artifacts="/nowhere", schema=digest)).components}
        for digest in ("one", "two")
    )  # fmt: skip
    assert changed(before, after) == {"ImportSchemaGen"}


def test_a_search_for_options_is_a_step_before_the_training() -> None:
    searching = config(trainer={"tuner": {"enabled": True}})
    assert [*STEPS[:6], "Tuner", *STEPS[6:]] == list(properties(searching))
    # What the Tuner chose reaches the Trainer as an artifact, so a longer search alone is the
    # Tuner's.
    longer = config(trainer={"tuner": {"enabled": True, "trials": 20}})
    assert changed(properties(searching), properties(longer)) == {"Tuner"}


def test_edited_weights_of_a_backbone_train_again() -> None:
    searching = config(trainer={"tuner": {"enabled": True}})
    of = [
        {step.id: dict(step.exec_properties)
         for step in create_pipeline(searching, code_digest="code",
                                     places=Places("/nowhere", weights=digest)).components}
        for digest in ("", "one", "two")
    ]  # fmt: skip
    assert changed(of[0], of[1]) == changed(of[1], of[2]) == {"Tuner", "Trainer"}


def test_a_model_to_start_from_is_one_more_input_of_the_training() -> None:
    warm = config(trainer={"warm_start": True, "tuner": {"enabled": True}})
    cold = config(trainer={"tuner": {"enabled": True}})
    assert list(properties(warm)) == [*STEPS[:6], "Tuner", "base_model", *STEPS[6:]]
    # Without a model to start from, it is the training that it would be else.
    assert changed(properties(cold), properties(warm)) == set()
    dag = create_pipeline(warm, places=Places(artifacts="/nowhere"), code_digest="code")
    steps = {step.id: step for step in dag.components}
    read = {"examples", "transform_graph", "hyperparameters"}
    assert set(steps["base_model"].inputs) == {
        *read, "model", "model_blessing", "infra_blessing"
    }  # fmt: skip
    assert set(steps["Trainer"].inputs) == {*read, "base_model"}
    settings = json.loads(steps["base_model"].exec_properties[RESOLVER_CONFIG]["settings"])
    assert settings == json.loads(steps["Trainer"].exec_properties["custom_config"])


def test_a_comparison_with_labelled_images_only_leaves_the_training_as_it_is() -> None:
    comparing = properties(config(evaluation={"labelled_only": "report"}))
    assert set(comparing) - set(STEPS) == {"LabelledOnlyTrainer", "LabelledOnlyEvaluator"}
    assert changed(properties(config()), comparing) == {"ModelGate"}
    own, other = (
        json.loads(json.loads(comparing[step]["custom_config"])["training"])["trainer"]
        for step in ("Trainer", "LabelledOnlyTrainer")
    )
    assert other.pop("semi_supervised") == {**own.pop("semi_supervised"), "enabled": False}
    assert own == other
    strict = properties(config(evaluation={"labelled_only": "refuse"}))
    assert changed(comparing, strict) == {"ModelGate"}
    for trainer in ({"warm_start": True}, {"semi_supervised": {"enabled": False}}):
        with pytest.raises(ConfigError, match=r"evaluation\.labelled_only: .*set it to off"):
            config(evaluation={"labelled_only": "report"}, trainer=trainer)


def test_labelling_an_archive_is_the_last_step() -> None:
    bulk = {"in_pipeline": True, "input": {"paths": "scans.zip"}}
    labelling = config(bulk=bulk)
    assert list(properties(labelling)) == [*STEPS, "BulkInference"]
    before, after = properties(labelling, "one"), properties(labelling, "two")
    assert "BulkInference" in changed(before, after)
    other = config(bulk={**bulk, "columns": ["key", "label"]})
    assert changed(properties(labelling), properties(other)) == {"BulkInference"}
    dag = create_pipeline(labelling, places=Places(artifacts="/nowhere"), code_digest="code")
    assert {"model_blessing", "infra_blessing"} < set(dag.components[-1].inputs)
    with pytest.raises(ConfigError, match=r"bulk\.in_pipeline: there is nothing to label"):
        config(bulk={"in_pipeline": True})


def test_a_changed_line_of_code_reaches_the_steps_that_run_it() -> None:
    before, after = properties(config(), "one"), properties(config(), "two")
    assert changed(before, after) == {
        "ImageExampleGen", "SchemaGen", "AnomalyGate", "Transform", "Trainer", "ServingCheck",
        "Evaluator",
        "ModelGate", "Pusher",
    }  # fmt: skip


def everything() -> PipelineConfig:
    return config(
        bulk={"in_pipeline": True, "input": {"paths": "scans.zip"}},
        trainer={"warm_start": True, "tuner": {"enabled": True}},
    )


@pytest.mark.parametrize("step", STEP_MODULES)
def test_a_step_has_the_digest_of_its_own_code(step: str) -> None:
    """An edit of one step's code reaches that step and no other."""
    places = Places(artifacts="/nowhere")
    codes = dict.fromkeys(STEP_MODULES, "one")
    before, after = (
        {
            made.id: dict(made.exec_properties)
            for made in create_pipeline(everything(), places=places, code_digest=code).components
        }
        for code in (codes, {**codes, step: "two"})
    )
    # The Resolver of the model to start from looks for trainings with the Trainer's settings.
    others = {"base_model"} if step == "Trainer" else set()
    assert changed(before, after) == {step} | others


def test_only_listed_steps_have_no_digest() -> None:
    state = {INPUT_CONFIG: "{}", FINGERPRINT: "images", SPAN: 1}
    for places in (
        Places(artifacts="/nowhere"),
        Places(artifacts="/nowhere", input_state=state, history="/nowhere/history.json"),
    ):
        dag = create_pipeline(everything(), places=places, code_digest="code")
        without = {step.id for step in dag.components} - STEP_MODULES.keys()
        assert without == {"StatisticsGen", "ExampleValidator"} | (
            {CLUSTER_BASELINE, CLUSTER_BASE, "RunRecord"}
            if places.input_state
            else {BASELINE, BASE}
        )


def test_the_evaluators_digest_covers_every_metric_of_ours() -> None:
    evaluation = create_eval_config(config())
    modules = {
        metric.module
        for spec in evaluation.metrics_specs
        for metric in spec.metrics
        if metric.module
    }
    assert modules | {SLICES_MODULE} <= set(STEP_MODULES["Evaluator"])
    assert len(modules) == 3


@pytest.mark.parametrize(
    ("sections", "steps"),
    [
        ({"trainer": {"epochs": 3}}, {"Trainer"}),
        (
            {"image": {"height": 14, "width": 14}},
            {"ImageExampleGen", "Transform", "Trainer", "Evaluator"},
        ),
        ({"evaluation": {"min_accuracy": 0.5}}, {"ModelGate"}),
        ({"evaluation": {"slices": ["size"]}}, {"Evaluator", "ModelGate"}),
        ({"serving_check": {"tolerance": 0.01}}, {"ServingCheck"}),
        # The resolver, which has no cache, looks there for a rollback.
        ({"push": {"directory": "/elsewhere"}}, {"Pusher", "baseline_model"}),
        ({"input": {"paths": "other.zip"}}, {"ImageExampleGen", "Trainer"}),
        ({"schema": {"path": "schema.pbtxt"}}, {"Trainer", "ImportSchemaGen"}),
    ],
)
def test_a_changed_value_reaches_the_steps_that_use_it(
    sections: dict[str, Any], steps: set[str]
) -> None:
    before, after = properties(config()), properties(config(**sections))
    new = {step for step in after if before.get(step) != after[step]}
    assert new == steps


def test_training_never_gets_the_test_split() -> None:
    training = json.loads(properties(config())["Trainer"]["custom_config"])["training"]
    assert set(json.loads(training)) == {"name", "input", "image", "schema", "model", "trainer"}


VERTEX = {"vertex": {"project": "p", "region": "europe-west4"}}


def test_a_vertex_endpoint_is_one_more_step_with_the_same_blessing() -> None:
    places = Places(artifacts="gs://bucket/artifacts")
    dag = create_pipeline(config(push=VERTEX), places=places, code_digest="code")
    pusher = {step.id: step for step in dag.components}["vertex_pusher"]
    arguments = json.loads(pusher.exec_properties["custom_config"])
    assert arguments["ai_platform_enable_vertex"]
    assert arguments["ai_platform_vertex_region"] == "europe-west4"
    assert arguments["ai_platform_serving_args"]["endpoint_name"] == "vaeline"
    assert {"model", "model_blessing"} <= set(pusher.inputs)


def test_vertex_needs_artifacts_in_a_bucket() -> None:
    with pytest.raises(ConfigError, match="lie in /nowhere; run it on a cluster"):
        properties(config(push=VERTEX))


@pytest.mark.parametrize(
    ("push", "message"),
    [
        ({"directory": "hdfs://bucket/a"}, "push.directory: hdfs://bucket/a: models are pushed to"),
        ({"directory": "/srv/models [1]"}, r"models \[1\]: TensorFlow takes"),
        ({"directory": "~/pushed"}, "push.directory: ~/pushed: ~ is not replaced here"),
        ({"directory": "s3://A b/a"}, "push.directory: s3://A b/a: models are pushed to"),
        ({"directory": "gs://"}, "gs://bucket/prefix"),
        ({"directory": "gs:///models"}, "gs://bucket/prefix"),
        ({"vertex": {"region": "europe-west4"}}, "push.vertex.project: Field required"),
        ({"vertex": {"project": "p", "region": "Europe"}}, "push.vertex.region: expected one"),
        (
            {"vertex": {"project": "p", "region": "us-west1", "min_replicas": 3}},
            "push.vertex.max_replicas 1 is below min_replicas 3",
        ),
    ],
)
def test_a_destination_that_does_not_hold_is_named(push: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(push=push)
    assert len(str(caught.value).splitlines()) == 1
