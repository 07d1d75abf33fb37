"""A network of keras.applications as the encoder: its pixels, its weights and what of it learns."""

import importlib
import inspect
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from tests import emulators
from tests.forked import Forked
from tests.numeric import assert_close, assert_same_answers
from tests.trainer import tiny
from tests.trainer.test_warm_start import export
from tests.trainer.tiny_backbone import NAME, SHAPE, network
from trainer import backbone_weights
from trainer.__main__ import main
from trainer.backbone_config import BACKBONES, BackboneConfig
from trainer.backbone_weights import check_weights, digest_of, read_weights
from trainer.config import ImageConfig, ModelConfig, TrainerConfig, check_consistent
from trainer.errors import InputError
from trainer.model.backbone import BackboneEncoder, PerChannelConv, application
from trainer.model.normalization import FusedBatchNorm
from trainer.model.vae_classifier import VaeClassifier
from trainer.model.weights import weight_names
from trainer.optimization.callbacks import TrainingProgress
from trainer.optimization.checkpoints import unpack_arrays
from trainer.search.tuning_space import apply
from trainer.storage import files
from trainer.train import TrainResult

REAL = "MobileNet"


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, NAME, network)
        yield


def model_config(**backbone: Any) -> ModelConfig:
    return tiny.model_config(
        encoder="backbone", decoder="mlp", backbone={"name": NAME, "weights": "none", **backbone}
    )


def build(
    shape: tuple[int, int, int] = SHAPE, body_dtype: str = "float32", **backbone: Any
) -> VaeClassifier:
    return tiny.build(model_config(**backbone), shape, body_dtype=body_dtype)


def options(weights: object, name: str = NAME) -> BackboneConfig:
    return BackboneConfig(name=name, weights=str(weights))


def moved(original: keras.Model) -> keras.Model:
    """Gives a network weights that no initialiser draws, the moving statistics included."""
    draw = np.random.default_rng(0)
    original.set_weights([w + draw.uniform(0, 0.1, w.shape) for w in original.get_weights()])
    return original


def read(weights: object, shape: tuple[int, int, int] = SHAPE, **changes: str) -> list[np.ndarray]:
    return read_weights(options(weights, **changes), shape)


def assert_same_arrays(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_network_of_keras_can_be_named() -> None:
    functions = inspect.getmembers(keras.applications, inspect.isfunction)
    assert sorted(BACKBONES) == sorted(name for name, _ in functions)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "mobilenet_v3_smal"}, r"name\n.*\(did you mean MobileNetV3Small\?\)"),
        ({"name": "resnet-50"}, r"\(did you mean ResNet50\?\)"),
        ({"train": "last blocks"}, "expected all, head, or last N blocks"),
        ({"train": "last 0 blocks"}, "expected all, head, or last N blocks"),
        ({"head_share": 1.0}, "less than 1"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        BackboneConfig.model_validate(values)


@pytest.mark.parametrize(("name", "least"), [("VGG16", 32), ("Xception", 71), ("InceptionV3", 75)])
def test_an_image_that_is_too_small_is_one_line(name: str, least: int) -> None:
    model = model_config(name=name)
    check_consistent(ImageConfig(height=least, width=least), model, TrainerConfig())
    with pytest.raises(ValueError, match=f"{name} needs images of at least {least}x{least} pixels"):
        check_consistent(ImageConfig(height=99, width=least - 1), model, TrainerConfig())


def test_the_search_for_options_sets_those_of_the_backbone() -> None:
    values = {"model.backbone.train": "head", "model.backbone.rate": 0.5}
    model, _ = apply(values, model_config(), TrainerConfig())
    assert (model.backbone.train, model.backbone.rate, model.backbone.name) == ("head", 0.5, NAME)


def test_an_empty_value_of_yaml_means_no_weights() -> None:
    assert BackboneConfig.model_validate({"weights": None}).is_pretrained is False
    assert BackboneConfig(weights="none").path == BackboneConfig(weights="imagenet").path == ""


@pytest.mark.parametrize(
    ("name", "shape"),
    [(REAL, (32, 40, 1)), ("VGG16", (32, 32, 3))],
)
def test_features_are_those_of_keras(name: str, shape: tuple[int, int, int]) -> None:
    theirs = moved(application(name, input_shape=(*shape[:2], 3)))
    model = build(shape, name=name)
    model.encoder.set_weights(theirs.get_weights())
    images = tiny.image_set(3, shape=shape).images
    module = importlib.import_module(getattr(keras.applications, name).__module__)
    colour = np.repeat(images, 3 // shape[2], axis=-1).astype(np.float32)
    expected = theirs(module.preprocess_input(colour), training=False)
    assert_close(model.analyse(images / np.float32(255))["features"], expected)


def test_every_level_of_a_pixel_arrives_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8)
    unit = tf.cast(levels, tf.float32) / 255.0
    np.testing.assert_array_equal(unit * 255.0, levels)


def test_layers_that_take_the_place_of_keras_compute_the_same() -> None:
    values = np.random.default_rng(1).normal(size=(4, 7, 7, 6)).astype(np.float32)
    theirs = keras.layers.Conv2D(6, 3, groups=6, strides=2, padding="same")
    ours = PerChannelConv.from_config(theirs.get_config())
    expected = theirs(values)
    ours.build(values.shape)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(values), expected)
    norm = keras.layers.BatchNormalization(scale=False, epsilon=1e-2, momentum=0.9)
    fused = FusedBatchNorm(scale=False, epsilon=1e-2, momentum=0.9, activation="linear")
    for layer in (norm, fused):
        layer.build(values.shape)
    assert_close(fused(values, training=True), norm(values, training=True))
    fused.trainable = False
    assert_close(fused(values, training=True), fused(values))
    assert [weight.name for weight in fused.weights] == [weight.name for weight in norm.weights]


@pytest.mark.parametrize(
    ("train", "learning"),
    [("all", {"block_1", "block_2", "block_3"}), ("last 2 blocks", {"block_2", "block_3"}),
     ("last 1 block", {"block_3"}), ("last 3 blocks", {"block_1", "block_2", "block_3"}),
     ("head", set())],
)  # fmt: skip
def test_a_block_is_the_layers_of_one_resolution(train: str, learning: set[str]) -> None:
    model = build(train=train)
    assert {w.path.split("/")[1][:7] for w in model.encoder.trainable_weights} == learning
    before = {w.path: w.numpy() for w in model.encoder.non_trainable_weights}
    model.encode(tf.ones([2, *SHAPE]), training=True)
    changed = {w.path.split("/")[1] for w in model.encoder.weights
               if w.path in before and np.any(before[w.path] != w.numpy())}  # fmt: skip
    # Statistics move only where scale and offset learn.
    assert changed == {f"{block}_norm" for block in learning}


def test_the_last_block_of_a_network_of_keras() -> None:
    names = {
        w.path.split("/")[1]
        for w in build(name=REAL, train="last 1 block").encoder.trainable_weights
    }
    assert names == {f"conv_{kind}_{number}{end}" for kind in ("dw", "pw") for number in (12, 13)
                     for end in ("", "_bn")}  # fmt: skip


def run(workdir: pathlib.Path, train: str, weights: object, **changes: Any) -> TrainResult:
    """Four steps, of which the first two leave the backbone as it is."""
    arguments: dict[str, Any] = {
        "model_config": model_config(train=train, weights=str(weights), head_share=0.5),
        "trainer_config": tiny.trainer_config(
            epochs=1, batch_size=8, checkpoints={"every_secs": 0, "keep": 9},
            optimizer={"ema_decay": 0.5, "ema_every": 1},
        ),
        "data": {"train": tiny.image_set(32, shape=SHAPE)},
        "image_shape": SHAPE,
        "pixel_mean": [0.4] * 3,
        "pixel_std": [0.2] * 3,
    }  # fmt: skip
    return tiny.run(workdir, **{**arguments, **changes})


def weights_after(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """The learned weights in a checkpoint, by name."""
    arrays = unpack_arrays((workdir / "checkpoints" / f"step-{step:09d}.npz").read_bytes())
    names = weight_names(build().learned_weights)
    return dict(zip(names, arrays[: len(names)], strict=True))


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file of weights of the tiny network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    moved(network()).save_weights(path)
    return path


@pytest.fixture(scope="module")
def last_block(
    tiny_weights: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, TrainResult]:
    """A training of the last block, which others are compared with."""
    folder = tmp_path_factory.mktemp("last_block")
    return folder, run(folder, "last 1 block", tiny_weights)


@pytest.mark.parametrize(
    ("train", "learning"), [("all", ("1", "2", "3")), ("last 1 block", ("3",)), ("head", ())]
)
def test_heads_learn_first_and_then_what_is_configured(
    tiny_weights: pathlib.Path,
    last_block: tuple[pathlib.Path, TrainResult],
    tmp_path: pathlib.Path,
    train: str,
    learning: tuple[str, ...],
) -> None:
    if train == "last 1 block":
        tmp_path, result = last_block
    else:
        result = run(tmp_path, train, tiny_weights)
    last = weights_after(tmp_path, 4)
    names = [name for name in last if name.startswith("encoder/")]
    given = dict(zip(names, read(tiny_weights), strict=True))
    if train != "head":
        half = weights_after(tmp_path, 2)
        assert all(np.array_equal(half[name], given[name]) for name in names)
        assert np.any(half["classifier/kernel"] != last["classifier/kernel"])
    changed = {name for name in names if np.any(last[name] != given[name])}
    assert changed == {name for name in names if name[len("encoder/block_")] in learning}
    average = dict(zip(last, (w.numpy() for w in result.model.learned_weights), strict=True))
    for name in set(names) - changed:
        np.testing.assert_array_equal(average[name], given[name])


class _StopError(Exception):
    """Ends a training from outside."""


def test_a_resumed_training_ends_with_the_same_weights(
    tiny_weights: pathlib.Path,
    last_block: tuple[pathlib.Path, TrainResult],
    tmp_path: pathlib.Path,
) -> None:
    def stop(event: TrainingProgress) -> None:
        if event.step > 2:
            raise _StopError

    own = tmp_path / "own.weights.h5"
    shutil.copy(tiny_weights, own)
    with pytest.raises(_StopError):
        run(tmp_path, "last 1 block", own, progress=stop)
    resumed = run(tmp_path, "last 1 block", own)
    np.testing.assert_array_equal(tiny.flat_weights(resumed), tiny.flat_weights(last_block[1]))
    # An edited file is another training.
    network().save_weights(own)
    with pytest.raises(ValueError, match="a run with other data or options"):
        run(tmp_path, "last 1 block", own)


def test_a_file_of_any_kind_gives_the_same_weights(tmp_path: pathlib.Path) -> None:
    original = moved(network())
    expected = original.get_weights()
    original.save_weights(tmp_path / "a.weights.h5")
    original.save(tmp_path / "b.keras")
    original.save(tmp_path / "c.h5")
    keras.Sequential([original, keras.layers.Dense(2)]).save(tmp_path / "d.keras")
    for path in sorted(tmp_path.iterdir()):
        assert_same_arrays(read(path), expected)
    # Weights do not depend on the size of the images.
    assert_same_arrays(read(tmp_path / "a.weights.h5", (40, 64, 1)), expected)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[VaeClassifier, pathlib.Path]:
    """A model and its export."""
    model = build()
    model.encoder.set_weights(moved(network()).get_weights())
    return model, export(tmp_path_factory.mktemp("export") / "pushed", model)


def test_a_trained_model_gives_its_backbone(
    exported: tuple[VaeClassifier, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    model, folder = exported
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = tf.cast(tiny.image_set(2, shape=SHAPE).images, tf.float32) / 255.0
    assert_same_answers(loaded.analyse(images), model.analyse(images))
    for place in (folder, tmp_path / "model.keras"):
        check_weights(options(place))
        assert_same_arrays(read(place), model.encoder.get_weights())
    with pytest.raises(InputError, match=r"has no weights of MobileNet; set model\.backbone\.name"):
        read(folder, name=REAL)


def test_weights_in_a_bucket_are_read(tiny_weights: pathlib.Path) -> None:
    with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
        client.create_bucket("weights")
        remote = "gs://weights/tiny.weights.h5"
        files.copy(str(tiny_weights), remote)
        assert digest_of(options(remote)) == digest_of(options(tiny_weights))
        assert_same_arrays(read(remote), read(tiny_weights))
        with pytest.raises(InputError, match=r"gs://weights/none.weights.h5 does not exist"):
            check_weights(options("gs://weights/none.weights.h5"))


def test_the_digest_is_that_of_the_content(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.weights.h5"
    path.write_bytes(b"\x89HDF one")
    first = digest_of(options(path))
    shutil.copy(path, tmp_path / "b.weights.h5")
    assert digest_of(options(tmp_path / "b.weights.h5")) == first
    path.write_bytes(b"\x89HDF two")
    assert digest_of(options(path)) != first
    assert digest_of(BackboneConfig()) == digest_of(None) == ""


def _other_network(path: pathlib.Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)


def _other_model(path: pathlib.Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.weights.h5", lambda _: None, "a.weights.h5 does not exist"),
        ("a.zip", lambda path: path.write_bytes(b"x"), "expected a file"),
        ("folder", lambda path: path.mkdir(), "folder without saved_model.pb or model.keras"),
        ("a.weights.h5", lambda path: path.write_bytes(b"version"), "no file that Keras has saved"),
        ("a.keras", lambda path: path.write_bytes(b""), "no file that Keras has saved"),
        ("a.h5", lambda path: path.write_bytes(b"\x89HDF"), "can't be read as weights"),
        ("a.keras", lambda path: path.write_bytes(b"PK"), "can't be read as weights"),
        ("a.weights.h5", _other_network, r"DenseNet121: [^:]*; set model\.backbone\.name"),
        ("a.keras", _other_model, "has no weights of DenseNet121"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(
    tmp_path: pathlib.Path, name: str, write: Callable[[pathlib.Path], Any], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"^model\.backbone\.weights: .*{message}") as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_more_blocks_than_there_are_is_one_line() -> None:
    with pytest.raises(InputError, match=r"train: DenseNet121 has 3 blocks at .*, not 4; give a"):
        build(train="last 4 blocks")


def test_a_missing_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception("URL fetch failure\nand more")

    monkeypatch.setattr(keras.applications, NAME, fail)
    fail.__module__ = network.__module__
    with pytest.raises(InputError, match=r"Keras can't download .* \(URL fetch failure\); give"):
        backbone_weights._download(NAME)


def test_weights_that_cannot_be_downloaded_are_reported_before_a_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: tuple[str, int], timeout: float) -> None:
        raise OSError(f"no way to {address[0]}")

    options = BackboneConfig(name="MobileNetV2", weights="imagenet")
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(backbone_weights, "getproxies", dict)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"MobileNetV2, can't be reached \(no way to storage"):
        backbone_weights.check_weights(options, download=True)
    # A worker of a cluster may have another network.
    backbone_weights.check_weights(options)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mobilenet_v2_weights_1.0_224_no_top.h5").touch()
    backbone_weights.check_weights(options, download=True)


def test_a_missing_file_is_reported_before_anything_starts(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c.yaml").write_text("model: {encoder: backbone, backbone: {weights: no.keras}}")
    # There are no images either.
    assert main([str(tmp_path), "--out", str(tmp_path / "o"), "--config", f"{tmp_path}/c.yaml"])
    assert [record.getMessage() for record in caplog.records] == [
        "model.backbone.weights: no.keras does not exist; give a file, imagenet or none"
    ]
    assert not (tmp_path / "o").exists()


def test_the_first_files_of_efficientnet_have_a_deviation_as_variance(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(**_: object) -> keras.Model:
        inputs = keras.Input(SHAPE)
        values = keras.layers.Normalization()(keras.layers.Rescaling(1 / 255)(inputs))
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(values))

    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    # Keras's network with weights="imagenet" has such a layer after its normalisation.
    correction = keras.layers.Rescaling(1 / np.sqrt(deviation))
    start.__module__ = keras.applications.EfficientNetB0.__module__
    monkeypatch.setattr(keras.applications, "EfficientNetB0", start)
    theirs = start()
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    theirs.set_weights([mean, deviation, np.array(0)])
    theirs.save_weights(tmp_path / "b0.weights.h5")
    theirs.load_weights(tmp_path / "b0.weights.h5")  # Only now it computes with them.
    ours = BackboneEncoder("EfficientNetB0")
    ours.build((None, *SHAPE))
    ours.set_weights(read(tmp_path / "b0.weights.h5", name="EfficientNetB0"))
    images = tiny.image_set(2, shape=SHAPE).images.astype(np.float32)
    features, _ = ours(images / np.float32(255))
    assert_close(features, correction(theirs(images)))


def test_half_precision_computes_the_body_and_leaves_the_policy() -> None:
    model = build(body_dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert model.encoder.network.get_layer("block_3_conv").compute_dtype == "bfloat16"
    assert {weight.dtype for weight in model.encoder.weights} == {"float32"}
    whole = build()
    whole.set_weights(model.get_weights())
    images = tf.cast(tiny.image_set(3, shape=SHAPE).images, tf.float32) / 255.0
    ours, exact = (each.encode(images).features for each in (model, whole))
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(ours, exact, rtol=0.1, atol=0.02)


def test_a_fresh_process_gives_the_same_answers(
    exported: tuple[VaeClassifier, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    model, folder = exported
    images = tiny.image_set(3, shape=SHAPE).images.astype(np.float32) / np.float32(255)
    np.savez(tmp_path / "requests.npz", serve=images)
    answers = tmp_path / "answers.npz"
    process = Forked(
        "tests.serving.session_loader", str(folder), str(tmp_path / "requests.npz"), str(answers),
        output=tmp_path / "printed.txt",
    )  # fmt: skip
    assert process.wait() == 0, process.text
    with np.load(answers) as found:
        (name,) = (name for name in found.files if name.startswith("serve/"))
        assert_close(found[name], model(images))
        assert not {op for op in found["operations"] if "Py" in op or "Xla" in op}
