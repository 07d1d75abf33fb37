"""The training loop's promises: learning, stopping, schedules, files."""

import json
import math
import pathlib
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.trainer import tiny
from tests.trainer.test_streams import write_examples
from trainer.__main__ import main, read_config
from trainer.optimization import arithmetic, callbacks
from trainer.optimization.optimizer import Adam, clip, learning_rate
from trainer.optimization.preemption import TrainingDivergedError, check_finite
from trainer.optimization.step import REPORTED
from trainer.options import OptimizerConfig
from trainer.quality.evaluation import Evaluator, fitting_batch


def test_a_history_is_json_to_every_reader(tmp_path: pathlib.Path) -> None:
    callbacks.write_history(str(tmp_path), [{"step": 1, "train": {"loss": float("nan")}}])
    text = (tmp_path / "history.json").read_text()
    assert json.loads(text) == [{"step": 1, "train": {"loss": None}}]


def test_learns_and_writes_its_files(tmp_path: pathlib.Path) -> None:
    events: list[callbacks.TrainingProgress] = []
    result = tiny.run(
        tmp_path,
        trainer_config=tiny.trainer_config(
            epochs=12, optimizer={"learning_rate": 5e-3}, tensorboard=True
        ),
        progress=events.append,
        fit_scores=True,
    )
    measures = Evaluator(result.model, 32)(tiny.image_set(200, seed=5))
    assert measures["accuracy"] > 0.95
    first, last = result.history[0], result.history[-1]
    assert last["train"]["elbo"] > first["train"]["elbo"]
    assert last["validation"]["loss"] < first["validation"]["loss"]
    assert len(result.history) == 12
    assert json.loads((tmp_path / "history.json").read_text()) == result.history
    (events_file,) = (tmp_path / "tensorboard").iterdir()
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events_file))
        for value in event.summary.value
    }
    assert {"train/loss", "train/kl", "validation/accuracy", "validation/elbo"} <= tags
    # TensorBoard's image plugin adds the number of the image where there are several.
    assert {"reconstructions", "prior samples", "latent map"} <= tags
    assert events[-1].step == events[-1].total_steps == 120
    assert "validation accuracy" in events[-1].line()


def test_a_validation_split_of_one_image_is_pictured(tmp_path: pathlib.Path) -> None:
    data = {**tiny.train_only(32), "validation": tiny.image_set(1)}
    config = tiny.trainer_config(epochs=1, tensorboard=True)
    result = tiny.run(tmp_path, trainer_config=config, data=data)
    assert result.history[-1]["validation"]["accuracy"] in (0, 1)


def test_evaluation_sees_every_image_once() -> None:
    from tests.trainer.test_model import build

    model = build()
    data = tiny.image_set(37)
    small, large = Evaluator(model, 8)(data), Evaluator(model, 64)(data)
    for name, value in small.items():
        assert large[name] == pytest.approx(value, rel=1e-5), name
    logits = model.classify(model.encode(data.images / np.float32(255)))
    expected = keras.losses.sparse_categorical_crossentropy(data.labels, logits, from_logits=True)
    assert small["cross_entropy"] == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)


def test_the_loss_of_validation_has_the_weights_of_training(tmp_path: pathlib.Path) -> None:
    objective = {"generative_weight": 0.01, "beta": 3.0, "alpha": 2.0}
    result = tiny.run(tmp_path, trainer_config=tiny.trainer_config(epochs=1, objective=objective))
    found = result.history[-1]["validation"]
    penalised = found["elbo"] - 2 * found["kl"]
    expected = -0.01 * penalised / math.prod(tiny.SHAPE) + 2 * found["cross_entropy"]
    assert found["loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limit", "counts", "size"),
    [(512, (6,), 16), (512, (81, 4), 128), (512, (128,), 128), (512, (129,), 256),
     (512, (9000, 3), 512), (8, (100,), 8), (512, (0,), 16), (512, (), 16)],
)  # fmt: skip
def test_batches_are_not_much_larger_than_a_split(
    limit: int, counts: tuple[int, ...], size: int
) -> None:
    assert fitting_batch(limit, *counts) == size


def test_early_stopping_keeps_the_best_weights(tmp_path: pathlib.Path) -> None:
    stopping = {"patience": 2, "metric": "accuracy", "min_delta": 0.5, "keep": "best"}
    result = tiny.run(
        tmp_path,
        trainer_config=tiny.trainer_config(
            epochs=20, early_stopping=stopping, optimizer={"learning_rate": 1e-4}
        ),
    )
    assert result.steps == 30
    measures = Evaluator(result.model, 32)(tiny.splits()["validation"])
    evaluations = [record["validation"] for record in result.history]
    best = max(reversed(evaluations), key=lambda each: each["accuracy"])
    assert best is not evaluations[0]
    assert measures["loss"] == pytest.approx(best["loss"], rel=1e-5)


def test_a_number_that_is_none_stops_the_run_with_step_and_term(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TrainingDivergedError, match=r"stopped at step \d+: \w+ is (nan|inf)"):
        tiny.run(
            tmp_path,
            model_config=tiny.model_config(observation="gaussian"),
            trainer_config=tiny.trainer_config(epochs=30, optimizer={"learning_rate": 1e30}),
            data=tiny.train_only(),
        )
    assert not (tmp_path / "checkpoints").exists()


def test_the_first_bad_term_is_named() -> None:
    values = np.zeros((5, len(REPORTED)), np.float32)
    check_finite(values, REPORTED, 10)
    values[3:, REPORTED.index("loss")] = np.nan
    values[3:, REPORTED.index("kl")] = np.inf
    with pytest.raises(TrainingDivergedError, match="stopped at step 13: kl is inf"):
        check_finite(values, REPORTED, 10)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_that_of_keras(decay: float) -> None:
    start = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    ours, theirs = tf.Variable(start), keras.Variable(start)
    config = OptimizerConfig(learning_rate=0.01, weight_decay=decay)
    adam = Adam(config, [ours])
    reference = keras.optimizers.AdamW(0.01, weight_decay=decay or 1e-20)

    @tf.function
    def update(gradient: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        gradients, norm = clip(config, [gradient])
        adam.apply(gradients, step, tf.constant(0.01))
        return norm

    for step in range(5):
        gradient = tf.constant(np.random.default_rng(step).normal(size=(3, 2)), tf.float32)
        norm = update(gradient, tf.constant(step))
        reference.apply([gradient], [theirs])
        assert float(norm) == pytest.approx(float(tf.linalg.norm(gradient)), rel=1e-5)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(learning_rate=0.1, warmup_epochs=1, schedule="cosine", final_share=0.1)
    rates = [
        float(learning_rate(config, tf.constant(step), total_steps=110, steps_per_epoch=10.0))
        for step in range(110)
    ]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.01 + 0.09 * 0.5, rel=1e-3)
    assert rates[-1] == pytest.approx(0.01, rel=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    gradients, norm = clip(OptimizerConfig(clip_norm=1.0), [tf.constant([3.0]), tf.constant([4.0])])
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose(np.concatenate(gradients), [0.6, 0.8], rtol=1e-5)


def test_adam_corrects_its_bias_by_its_own_updates() -> None:
    variable = tf.Variable([1.0, 1.0])
    adam = Adam(OptimizerConfig(), [variable], relative_rate=0.1, first_step=40)
    tf.function(adam.apply)([tf.constant([3.0, -4.0])], tf.constant(40), tf.constant(0.5))
    # The first update of Adam is the rate, whatever the gradient.
    np.testing.assert_allclose(variable.numpy(), [0.95, 1.05], rtol=1e-5)


PLAIN, AMX = arithmetic.Hardware("cpu", False), arithmetic.Hardware("cpu", True)
AMPERE = arithmetic.Hardware("gpu", True)


@pytest.mark.parametrize(
    ("encoder", "hardware", "body_dtype"),
    [
        ("conv", PLAIN, "float32"),
        ("conv", AMX, "mixed_bfloat16"),
        ("conv", AMPERE, "mixed_bfloat16"),
        ("mlp", PLAIN, "float32"),
        ("mlp", AMX, "float32"),
        ("mlp", AMPERE, "float32"),
    ],
)
def test_auto_follows_the_network_and_the_hardware(
    encoder: str, hardware: arithmetic.Hardware, body_dtype: str
) -> None:
    config = tiny.trainer_config(precision="auto", xla="auto")
    model = tiny.build(tiny.model_config(encoder=encoder))
    for replicas in (1, 2):
        chosen = arithmetic.choose(
            config, model, replicas=replicas, clustered=False, hardware=hardware
        )
        normalisation: Literal["kernel", "formula"] = "kernel" if replicas == 1 else "formula"
        assert chosen == arithmetic.Arithmetic(body_dtype, False, normalisation)
    # Workers may have different processors.
    chosen = arithmetic.choose(config, model, replicas=4, clustered=True, hardware=hardware)
    assert chosen == arithmetic.Arithmetic(normalisation="formula")


def test_what_is_asked_for_is_done_whatever_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.model_config(encoder="conv"))
    given: dict[str, Any] = {"clustered": False, "hardware": PLAIN}
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    config = tiny.trainer_config(precision="bfloat16", xla="on")
    assert arithmetic.choose(config, model, replicas=1, **given) == arithmetic.Arithmetic(
        "mixed_bfloat16", True
    )
    with pytest.raises(ValueError, match=r"trainer\.xla: on needs one replica"):
        arithmetic.choose(config, model, replicas=2, **given)


def test_hidden_bfloat16_units_are_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.model_config(encoder="conv"))
    config = tiny.trainer_config(precision="bfloat16")
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(ValueError, match=r"trainer\.precision: bfloat16 crashes TensorFlow while"):
        arithmetic.choose(config, model, replicas=1, clustered=False, hardware=PLAIN)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    chosen = arithmetic.choose(config, model, replicas=1, clustered=False, hardware=PLAIN)
    assert chosen.body_dtype == "mixed_bfloat16"


def test_processors_are_known_by_their_flags(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\n")
    assert arithmetic.cpu_flags(str(listing)) == {"fpu", "avx2", "amx_bf16"}
    assert arithmetic.cpu_flags(str(tmp_path / "none")) == frozenset()
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for variable, value, fast in (
        ("TF_ENABLE_ONEDNN_OPTS", "1", True),
        ("TF_ENABLE_ONEDNN_OPTS", "0", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
            patch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
            patch.setenv(variable, value)
            assert arithmetic.detect_hardware() == arithmetic.Hardware("cpu", fast), variable


def test_xla_and_bfloat16_learn_the_same(tmp_path: pathlib.Path) -> None:
    losses = {}
    variants = {"exact": {}, "xla": {"xla": "on"}}
    if not arithmetic.hidden_bfloat16_units():
        variants["mixed"] = {"precision": "bfloat16"}
    for name, changes in variants.items():
        config = tiny.trainer_config(epochs=1, **changes)
        result = tiny.run(tmp_path / name, trainer_config=config, data=tiny.train_only())
        losses[name] = result.history[-1]["train"]["loss"]
    assert losses["xla"] == pytest.approx(losses["exact"], rel=1e-3)
    if "mixed" in losses:
        assert losses["mixed"] == pytest.approx(losses["exact"], rel=0.01)


def test_elastic_changes_begin_where_their_ramp_does(tmp_path: pathlib.Path) -> None:
    losses = {}
    variants: dict[str, dict[str, Any]] = {
        "never": {},
        "late": {"elastic": 0.4, "elastic_ramp": (0.5, 0.5)},
        "always": {"elastic": 0.4},
    }
    for name, augmentation in variants.items():
        config = tiny.trainer_config(epochs=2, augmentation=augmentation)
        result = tiny.run(tmp_path / name, trainer_config=config, data=tiny.train_only())
        losses[name] = [record["train"]["loss"] for record in result.history]
    assert losses["late"][0] == pytest.approx(losses["never"][0], rel=1e-3)
    assert losses["always"][0] != pytest.approx(losses["never"][0], rel=3e-3)
    assert losses["late"][1] != pytest.approx(losses["never"][1], rel=3e-3)


def test_importance_bound_and_binarised_digits_can_be_trained_on(tmp_path: pathlib.Path) -> None:
    objective = {"bound": "importance", "samples": 4, "binarise": True, "alpha": 0}
    config = tiny.trainer_config(epochs=6, objective=objective)
    result = tiny.run(tmp_path, trainer_config=config, data=tiny.train_only())
    losses = [record["train"]["loss"] for record in result.history]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_unsupervised_training_learns_from_unlabelled_images(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its graph, which takes a second to trace, is for a validation split alone.
    monkeypatch.setattr("trainer.optimization.loop.Evaluator", None)
    data = {**tiny.train_only(32), "unlabelled": tiny.image_set(32, seed=4)}
    config = tiny.trainer_config(epochs=1, objective={"alpha": 0})
    result = tiny.run(tmp_path, trainer_config=config, data=data)
    assert result.history[-1]["train"]["unlabelled_elbo"] < 0


def test_progress_shows_no_part_that_the_objective_leaves_out() -> None:
    event = callbacks.TrainingProgress(1, 2, 0.5, 0.0, 0.0, {"loss": 1.0, "elbo": 0.0, "kl": 0.0})
    assert "loss 1.0000  ETA" in event.line()


def test_clock_leaves_out_the_first_call_and_pauses() -> None:
    times = iter([0.0, 10.0, 12.0, 50.0, 51.0])
    clock = callbacks.Clock(now=lambda: next(times))
    clock.tick(1)
    assert clock.step_secs is None
    clock.tick(4)
    assert clock.step_secs == 0.5
    clock.skip()
    clock.tick(2)
    assert clock.step_secs == 0.5


def test_command_line_says_what_is_wrong(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "config.yaml"
    for content, message in (
        (b"trainer: {epochs: many}\nmodel: {latent: 3}",
         r"model\.latent: unknown key; did you mean latent_size\?\n.*trainer\.epochs: .*'many'"),
        (b"trainer:\n", r"config\.yaml: trainer: expected keys and values, got None$"),
        (b"trainer:\n\tepochs: 3", r"config\.yaml: line 2, column 1: .*indent with spaces$"),
        (b"\xff", r"config\.yaml: is not a text file in UTF-8$"),
    ):  # fmt: skip
        config.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_config(config)
    config.write_text("trainer: {tuner: {enabled: true}}")
    arguments = [str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--config", str(config)]
    assert main(arguments) == 1
    assert "trainer.tuner is ignored" in caplog.text
    assert "no Examples to train on" in caplog.text


def test_command_line_trains_from_a_folder_of_examples(tmp_path: pathlib.Path) -> None:
    for split, count in (("train", 64), ("validation", 16), ("calibration", 32)):
        data = tiny.image_set(count)
        names = [f"bar {label}" for label in data.labels]
        write_examples(tmp_path / "examples" / f"Split-{split}" / "part.tfrecord", data, names)
    height, width, channels = tiny.SHAPE
    sections = {
        "image": {"height": height, "width": width, "channels": channels},
        "model": tiny.model_config().model_dump(mode="json"),
        "trainer": tiny.trainer_config(epochs=1).model_dump(mode="json"),
        "input": {"another": "section"},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(sections))
    out = tmp_path / "out"
    assert main([str(tmp_path / "examples"), "--out", str(out), "--config", str(config)]) == 0
    record = json.loads((out / "model.json").read_text())
    assert record["classes"] == ["bar 0", "bar 1", "bar 2"]
    model = keras.models.load_model(out / "model.keras")
    images = tiny.image_set(3).images.astype(np.float32) / 255.0
    assert model(images).shape == (3, 3)
    assert float(model.scores.thresholds[0]) == pytest.approx(
        record["calibration"]["thresholds"]["review"]["score"], rel=1e-6
    )
