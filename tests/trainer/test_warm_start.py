"""A training that begins with the weights of an earlier model."""

import io
import json
import logging
import pathlib
import shutil
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import emulators
from tests.trainer import tiny
from tests.trainer.test_model_card import unknown_keys
from trainer.__main__ import main
from trainer.data.input_pipeline import ImageSet
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import digest_weights, weight_names
from trainer.model_card import parse_card
from trainer.optimization.warm_start import Base, begin_with, fit_base, read_base
from trainer.progress import PROGRESS_LOGGER
from trainer.storage.files import copy_tree
from trainer.train import TrainResult

NAMES = ("left", "middle", "right")


def create(classes: int = tiny.CLASSES, **changes: Any) -> VaeClassifier:
    return VaeClassifier(
        config=tiny.model_config(**changes),
        image_shape=tiny.SHAPE,
        num_classes=classes,
        pixel_mean=[0.3],
        pixel_std=[0.25],
    )


def base_of(model: VaeClassifier, classes: tuple[str, ...] = NAMES) -> Base:
    arrays = [np.asarray(weight.numpy()) for weight in model.weights]
    named = dict(zip(weight_names(model.weights), arrays, strict=True))
    return Base("/models/7", digest_weights(model.weights), classes, named)


def export(folder: pathlib.Path, model: VaeClassifier) -> pathlib.Path:
    """As `serving.export` does, without the signatures."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec([None, *model.image_shape], tf.float32, name="pixels")
    archive.add_endpoint("serve", lambda pixels: model(pixels), input_signature=[spec])
    archive.write_out(str(folder), verbose=False)
    (folder / "assets.extra").mkdir()
    card = {
        "classes": NAMES,
        "digests": {"model": digest_weights(model.weights)},
        "weights": weight_names(model.weights),
    }
    (folder / "assets.extra" / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    conv = tiny.model_config(encoder="conv", decoder="mlp")
    folder = tmp_path_factory.mktemp("base")
    return tiny.run(folder, model_config=conv, data=tiny.train_only())


@pytest.fixture(scope="module")
def pushed(trained: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The export of the trained model."""
    return export(tmp_path_factory.mktemp("pushed") / "model", trained.model)


def standing_still(**changes: Any) -> Any:
    """One step that moves nothing that can be seen."""
    optimizer = {"learning_rate": 1e-30, "ema_decay": 0.9, "ema_every": 1}
    return tiny.trainer_config(epochs=0.1, steps_per_call=1, optimizer=optimizer, **changes)


def forget_a_weight(saved: pathlib.Path, name: str) -> None:
    """Removes a weight from a file of Keras, as if a version without it had saved it."""
    with zipfile.ZipFile(saved) as file:
        parts = {part: file.read(part) for part in file.namelist()}
    weights = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as opened:
        del opened[name]
    parts["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(saved, "w") as file:
        for part, content in parts.items():
            file.writestr(part, content)


def test_names_do_not_hang_on_what_keras_counted_before() -> None:
    first, second = create(encoder="conv"), create(encoder="conv")
    assert [w.path for w in first.weights] != [w.path for w in second.weights]
    names = weight_names(first.weights)
    assert names == weight_names(second.weights)
    assert len(set(names)) == len(names)
    assert {"encoder/conv_unit_2/conv2d/kernel", "decoder/dense/kernel"} < set(names)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize("kind", ["pushed", "trained"])
def test_a_model_in_a_bucket_is_read_like_one_on_disk(
    trained: TrainResult, pushed: pathlib.Path, tmp_path: pathlib.Path, scheme: str, kind: str
) -> None:
    local = pushed
    if kind == "trained":
        local = tmp_path
        shutil.copy(pushed / "assets.extra" / "model.json", local)
        trained.model.save(local / "model.keras")
    with emulators.bucket(scheme) as bucket:
        copy_tree(str(local), f"{bucket}/{kind}")
        remote = read_base(f"{bucket}/{kind}")
    base = read_base(str(local))
    assert (remote.source, remote.digest) == (f"{bucket}/{kind}", base.digest)
    for name, weight in base.weights.items():
        np.testing.assert_array_equal(remote.weights[name], weight)


def test_the_first_step_sees_the_earlier_models_outputs(
    trained: TrainResult,
    pushed: pathlib.Path,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = read_base(str(pushed))
    seen: list[float] = []
    with caplog.at_level(logging.INFO, PROGRESS_LOGGER):
        result = tiny.run(
            tmp_path,
            data=tiny.train_only(),
            model_config=trained.model.config,
            trainer_config=standing_still(seed=9),
            base=base,
            classes=NAMES,
            progress=lambda event: seen.append(event.parts["accuracy"]),
        )
    total = len(trained.model.learned_weights)
    line = f"warm start: {total} of {total} weights are those of {pushed}"
    # TensorFlow may warn of retracing, depending on what the process did before.
    own = [record for record in caplog.records if record.name == PROGRESS_LOGGER]
    assert [record.getMessage() for record in own] == [line]
    assert seen[0] > 0.9, "a model that starts anew knows a third"
    # The result is the moving average, so that begins there, too.
    weights = (trained.model.trainable_variables, result.model.trainable_variables)
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), atol=1e-6)
    begun = create(encoder="conv", decoder="mlp")
    begin_with(begun, fit_base(base, begun, NAMES))
    pixels = tiny.image_set(32, seed=5).images / np.float32(255)
    expected = trained.model.analyse(pixels)
    for name in ("logits", "embedding", "reconstruction", "elbo"):
        np.testing.assert_array_equal(begun.analyse(pixels)[name], expected[name])


def test_a_new_class_starts_the_head_anew_and_nothing_else(
    trained: TrainResult, tmp_path: pathlib.Path
) -> None:
    four = tiny.train_only()
    extra = tiny.image_set(40, seed=8)
    labels = np.full(40, 3, np.int32)
    four["train"] = ImageSet(
        np.concatenate([four["train"].images, extra.images]),
        np.concatenate([four["train"].labels, labels]),
    )
    result = tiny.run(
        tmp_path, data=four, num_classes=4, model_config=trained.model.config,
        trainer_config=standing_still(), base=base_of(trained.model),
        classes=(*NAMES, "top"),
    )  # fmt: skip
    assert result.warm_start is not None
    assert result.warm_start.new == ["classifier/kernel", "classifier/bias"]
    assert "; new (other classes): classifier/kernel, classifier/bias" in result.warm_start.line()
    np.testing.assert_array_equal(
        result.model.encoder.dense.kernel.numpy(), trained.model.encoder.dense.kernel.numpy()
    )


def test_what_does_not_fit_starts_anew() -> None:
    wider = fit_base(base_of(create()), create(hidden=(24,)), NAMES)
    assert wider.new == [
        "encoder/dense/kernel", "encoder/dense/bias", "posterior_mean/kernel",
        "posterior_log_variance/kernel", "classifier/kernel",
    ]  # fmt: skip
    renamed = fit_base(base_of(create()), create(), ("left", "middle", "top"))
    assert renamed.new == ["classifier/kernel", "classifier/bias"]
    by_class = base_of(create(conditioning="label"))
    reordered = fit_base(by_class, create(conditioning="label"), NAMES[::-1])
    assert reordered.new == ["classifier/kernel", "classifier/bias", "decoder/dense/kernel"]
    other = fit_base(base_of(create(encoder="conv")), create(), NAMES)
    assert other.line().endswith("more")


def test_a_checkpoint_goes_before_and_belongs_to_its_base(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny.train_only()
    base = base_of(create())
    first = tiny.run(tmp_path, data=data, base=base, classes=NAMES)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        second = tiny.run(tmp_path, data=data, base=base, classes=NAMES)
    np.testing.assert_array_equal(tiny.flat_weights(first), tiny.flat_weights(second))
    assert not [r for r in caplog.records if "warm start" in r.getMessage()]
    for other in (None, base_of(create())):
        with pytest.raises(ValueError, match="a run with other data or options"):
            tiny.run(tmp_path, data=data, base=other, classes=NAMES)


def test_a_damaged_or_foreign_model_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"/nowhere: no model to start from; name a folder with"):
        read_base("/nowhere")
    folder = export(tmp_path / "model", create())
    card = folder / "assets.extra" / "model.json"
    facts = json.loads(card.read_text())
    card.write_text(json.dumps({**facts, "digests": {"model": "0123"}}))
    with pytest.raises(ValueError, match="are not those of its card; the export is damaged"):
        read_base(str(folder))
    del facts["weights"]
    card.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="an earlier version exported it; train once with"):
        read_base(str(folder))


def test_the_program_starts_from_what_it_wrote(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.trainer.test_streams import write_examples

    data = tiny.image_set(48)
    write_examples(
        tmp_path / "in" / "Split-train" / "data.tfrecord", data, [NAMES[n] for n in data.labels]
    )
    config = tmp_path / "config.yaml"
    sections = {
        "image": dict(zip(("height", "width", "channels"), tiny.SHAPE, strict=True)),
        "model": tiny.model_config().model_dump(mode="json"),
        "trainer": tiny.trainer_config(epochs=1, warm_start=True).model_dump(mode="json"),
    }
    config.write_text(json.dumps(sections))
    command = [str(tmp_path / "in"), "--config", str(config), "--out"]
    caplog.set_level(logging.INFO)
    assert main([*command, str(tmp_path / "none")]) == 1
    assert "name the model to start from with --base-model" in caplog.text
    sections["trainer"]["warm_start"] = False
    config.write_text(json.dumps(sections))
    assert main([*command, str(tmp_path / "one")]) == 0
    first = ["--base-model", str(tmp_path / "one")]
    assert main([*command, str(tmp_path / "two"), *first]) == 0
    content = (tmp_path / "two" / "model.json").read_text()
    assert unknown_keys(parse_card(content)) == []
    record = json.loads(content)
    assert record["base"]["source"] == str(tmp_path / "one")
    assert record["base"]["new"] == []

    forget_a_weight(tmp_path / "one" / "model.keras", "layers/outlier_score/vars/0")
    caplog.clear()
    assert main([*command, str(tmp_path / "three"), *first]) == 1
    assert "model.keras: is damaged or of another version of vaeline; start from" in caplog.text
