"""Order, noise, augmentation and loading."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer import tiny
from trainer.config import ImageConfig
from trainer.data import features, preprocessing
from trainer.data.augmentation import augment
from trainer.data.batches import Feed, Order, ResidentFeed, StreamedFeed, build_feed
from trainer.data.examples import load_folder, pixel_moments
from trainer.data.input_pipeline import ImageSet, load_splits, select
from trainer.data.streams import learning_splits
from trainer.optimization.noise import Noise
from trainer.options import AugmentationConfig


def test_every_epoch_sees_every_image_once() -> None:
    order = Order(10, 1, "train")
    whole = order.places(0, 35)
    epochs = [whole[start : start + 10] for start in (0, 10, 20)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(order.places(7, 9), whole[7:16])
    assert (Order(10, 2, "train").places(0, 10) != epochs[0]).any()
    assert (Order(10, 1, "other").places(0, 10) != epochs[0]).any()


def test_resident_and_streamed_feeds_give_the_same_batches() -> None:
    data = tiny.image_set(30)
    strategy = tf.distribute.get_strategy()
    batches = []
    for kind in (ResidentFeed, StreamedFeed):
        feed = kind(data, 8, Order(30, 1, "train"), strategy)
        block = feed.block(3, 2, 4)
        assert all(tensor.shape[0] == 4 for tensor in block)
        rows = [tuple(tensor[i] for tensor in block) for i in range(2)]
        batches.append([feed.batch(row, feed.resident(), 0) for row in rows])
    for (images, labels), (others, classes) in zip(*batches, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, classes)


def test_streamed_training_is_the_resident_one(tmp_path: pathlib.Path) -> None:
    resident = tiny.run(
        tmp_path / "a", trainer_config=tiny.trainer_config(epochs=1), data=tiny.train_only()
    )
    data = tiny.train_only()
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=data["train"].images.shape)
    mapped[:] = data["train"].images
    data["train"] = ImageSet(mapped, data["train"].labels)
    streamed = tiny.run(tmp_path / "b", trainer_config=tiny.trainer_config(epochs=1), data=data)
    np.testing.assert_array_equal(tiny.flat_weights(resident), tiny.flat_weights(streamed))


def test_noise_is_a_function_of_seed_step_and_stream() -> None:
    drawn = Noise(1, 5).normal("a", [1000, 2])
    np.testing.assert_array_equal(drawn, Noise(1, tf.constant(5)).normal("a", [1000, 2]))
    for other in (Noise(2, 5).normal("a", [1000, 2]), Noise(1, 6).normal("a", [1000, 2]),
                  Noise(1, 5).normal("b", [1000, 2])):  # fmt: skip
        assert abs(np.corrcoef(np.ravel(drawn), np.ravel(other))[0, 1]) < 0.1
    kept = Noise(1, 5).dropout("d", tf.ones([2000, 5]), 0.25)
    assert float(tf.reduce_mean(kept)) == pytest.approx(1.0, abs=0.05)
    assert float(tf.reduce_mean(tf.cast(kept == 0, tf.float32))) == pytest.approx(0.25, abs=0.03)


def test_augmentation_without_bounds_is_the_identity() -> None:
    images = tf.constant(tiny.image_set(4).images / np.float32(255))
    np.testing.assert_array_equal(augment(images, AugmentationConfig(), Noise(1, 0)), images)
    warped = augment(images, AugmentationConfig(rotation=1e-4), Noise(1, 0))
    np.testing.assert_allclose(warped, images, atol=1e-3)


def test_augmentation_changes_each_image_differently_within_the_range() -> None:
    config = AugmentationConfig(
        rotation=20, shift=0.2, zoom=0.2, shear=0.2, thickness=0.5, contrast=0.3,
        brightness=0.2, cutout=0.3, horizontal_flip=True, fill="reflect",
    )  # fmt: skip
    images = tf.repeat(tf.constant(tiny.image_set(1).images / np.float32(255)), 6, axis=0)
    changed = augment(images, config, Noise(1, 0)).numpy()
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    for i in range(1, 6):
        assert np.abs(changed[i] - changed[0]).max() > 0.05
    other = augment(images, config, Noise(1, 0), view="other")
    assert np.abs(other - changed).max() > 0.05


def test_shift_moves_by_at_most_its_bound() -> None:
    images = np.zeros((200, 11, 11, 1), np.float32)
    images[:, 5, 5] = 1.0
    moved = augment(tf.constant(images), AugmentationConfig(shift=2 / 11), Noise(1, 0)).numpy()
    rows, columns = np.nonzero(moved.sum(axis=(0, 3)))
    assert {rows.min(), columns.min(), rows.max(), columns.max()} == {3, 7}


@pytest.mark.parametrize("fill", ["black", "edge", "reflect"])
def test_elastic_changes_join_the_other_warps(fill: str) -> None:
    images = tf.constant(tiny.image_set(6, shape=(16, 12, 3)).images / np.float32(255))
    config = AugmentationConfig.model_validate(
        {"rotation": 40, "shift": 0.3, "zoom": 0.3, "shear": 0.2, "fill": fill}
    )
    warped, bent, strong = (
        augment(images, config.model_copy(update={"elastic": elastic}), Noise(1, 0)).numpy()
        for elastic in (0, 1e-6, 0.1)
    )
    # An elastic change of nearly nothing is the projective transform of TensorFlow.
    np.testing.assert_allclose(bent, warped, atol=1e-3)
    assert np.abs(strong - warped).max() > 0.1
    assert strong.min() >= 0
    assert strong.max() <= 1


def test_an_elastic_change_is_smooth_and_bounded() -> None:
    rows = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, np.newaxis], (8, 40, 40))
    ramp = tf.constant(np.ascontiguousarray(rows)[..., np.newaxis])
    bent = augment(ramp, AugmentationConfig(elastic=0.05, fill="edge"), Noise(1, 0)).numpy()
    moved = np.abs(bent - ramp)
    # The ramp rises by one over the height, so that its change is the displacement.
    # Between the nodes, cubic interpolation exceeds their bound a little.
    assert 0.03 < moved.max() < 0.08
    assert np.abs(np.diff(bent - ramp, axis=2)).max() < 0.02


def test_unlabelled_train_images_join_the_unlabelled_split() -> None:
    data = tiny.splits(20)
    data["train"].labels[5:] = -1
    splits = learning_splits(data, tiny.trainer_config())
    assert len(splits[features.TRAIN]) == 5
    assert len(splits[features.UNLABELLED]) == 15
    data["train"].labels[:] = -1
    with pytest.raises(ValueError, match="has no labels"):
        learning_splits(data, tiny.trainer_config())
    watching = tiny.trainer_config(early_stopping={"patience": 1})
    with pytest.raises(ValueError, match="no validation split to watch"):
        learning_splits(tiny.train_only(4), watching)
    with pytest.raises(ValueError, match="train split is empty"):
        learning_splits({}, tiny.trainer_config())


def test_sets_above_the_limit_go_to_a_file() -> None:
    data = tiny.image_set(3000)
    places = np.arange(0, 3000, 2)
    small = select([(data, places)])
    mapped = select([(data, places)], memory_limit_bytes=10_000)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(small.images, mapped.images)
    np.testing.assert_array_equal(small.labels, data.labels[places])


def write_examples(path: pathlib.Path, data: ImageSet, labels: list[str]) -> None:
    """A file of image records, as ingest writes them."""
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for image, label in zip(data.images, labels, strict=True):
            content = {features.ENCODED: tf.io.encode_png(image).numpy()}
            if label:
                content[features.LABEL_TEXT] = label.encode()
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in content.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def test_examples_that_do_not_fit_the_memory_are_mapped_from_a_file(tmp_path: pathlib.Path) -> None:
    data = tiny.image_set(1100)
    write_examples(tmp_path / "Split-train" / "data.tfrecord", data, ["class"] * 1100)
    height, width, channels = tiny.SHAPE
    image = ImageConfig.model_validate({"height": height, "width": width, "channels": channels})
    loaded = [
        load_folder(os.fspath(tmp_path), image, memory_limit_bytes=limit, cache_dir=str(tmp_path))
        for limit in (1 << 10, 1 << 30)
    ]
    mapped, resident = (splits["train"] for splits, _ in loaded)
    assert isinstance(mapped.images, np.memmap)
    assert not isinstance(resident.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, data.images)
    assert mapped.digest == resident.digest
    assert {path.name for path in tmp_path.iterdir()} == {"Split-train"}


def test_splits_share_the_memory(tmp_path: pathlib.Path) -> None:
    sizes = {"train": 40, "validation": 30, "calibration": 20}
    data = {split: tiny.image_set(size) for split, size in sizes.items()}
    for split, images in data.items():
        path = tmp_path / f"Split-{split}" / "data.tfrecord"
        write_examples(path, images, ["class"] * len(images))
    height, width, channels = tiny.SHAPE
    image = ImageConfig.model_validate({"height": height, "width": width, "channels": channels})
    each = data["train"].images[0].nbytes
    for limit, mapped in ((90, []), (89, ["calibration"]), (69, ["validation", "calibration"])):
        splits, _ = load_folder(
            os.fspath(tmp_path), image, memory_limit_bytes=limit * each, cache_dir=str(tmp_path)
        )
        found = [name for name, split in splits.items() if isinstance(split.images, np.memmap)]
        assert found == mapped
        for split, images in data.items():
            np.testing.assert_array_equal(splits[split].images, images.images)


def test_a_file_of_images_is_copied_to_gpus_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = select([(tiny.image_set(20), np.arange(20))], memory_limit_bytes=1)
    assert isinstance(data.images, np.memmap)

    def feed(limit: int) -> Feed:
        strategy = tf.distribute.get_strategy()
        order = Order(20, 1, "train")
        return build_feed(data, 4, order, strategy, resident_limit_bytes=limit)

    assert isinstance(feed(1 << 30), StreamedFeed)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a device"])
    assert isinstance(feed(1 << 30), ResidentFeed)
    assert isinstance(feed(1), StreamedFeed)


def test_examples_are_loaded_with_their_classes(tmp_path: pathlib.Path) -> None:
    data = tiny.image_set(7)
    names = [f"class {label}" for label in data.labels]
    write_examples(tmp_path / "Split-train" / "data.tfrecord", data, names)
    write_examples(tmp_path / "Split-unlabelled" / "data.tfrecord", data, [""] * 7)
    height, width, channels = tiny.SHAPE
    image = ImageConfig.model_validate({"height": height, "width": width, "channels": channels})
    splits, classes = load_folder(
        os.fspath(tmp_path), image, memory_limit_bytes=1 << 20, cache_dir=os.fspath(tmp_path)
    )
    assert classes == sorted(set(names))
    np.testing.assert_array_equal(splits["train"].images, data.images)
    assert [classes[label] for label in splits["train"].labels] == names
    np.testing.assert_array_equal(splits["unlabelled"].labels, [-1] * 7)
    mean, std = pixel_moments(data)
    scaled = data.images / 255.0
    assert mean == pytest.approx([scaled.mean()])
    assert std == pytest.approx([scaled.std()])
    with pytest.raises(ValueError, match="no Examples to train on"):
        load_folder(
            os.fspath(tmp_path / "nothing"), image, memory_limit_bytes=1, cache_dir="unused"
        )


@pytest.mark.parametrize("largest", [1_000, 3 << 20])
def test_large_records_are_decoded_a_few_at_a_time(tmp_path: pathlib.Path, largest: int) -> None:
    records = [b"%d" % at + b"x" * (largest if at % 3 == 0 else 10) for at in range(100)]
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for record in records:
            writer.write(record)
    taken: list[int] = []
    traced: list[tf.TensorShape] = []

    def decode(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        traced.append(serialised.shape)
        tf.py_function(lambda batch: taken.append(len(batch)), [serialised], [])
        first = tf.strings.to_number(tf.strings.regex_replace(serialised, "x+$", ""), tf.int64)
        return tf.zeros([tf.size(serialised), 2, 2, 1], tf.uint8), first

    patterns = {split: [str(tmp_path / "records")] for split in ("train", "validation")}
    loaded = load_splits(patterns, decode, image_shape=(2, 2, 1), memory_limit_bytes=1 << 20)
    for split in patterns:
        np.testing.assert_array_equal(loaded[split].labels, np.arange(100))
    assert max(taken) == (100 if largest == 1_000 else 2)
    assert traced == [(None,)]


@pytest.mark.parametrize("most", [1, 30, 10_000])
def test_moments_are_added_up_in_parts(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(preprocessing, "_SUMMED_VALUES", most)
    levels = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)
    encoded = tf.stack([tf.io.encode_png(image) for image in levels])
    whole = levels.astype(np.int64)
    expected = [*whole.sum((0, 1, 2)), *(whole**2).sum((0, 1, 2)), 7 * 4 * 5]
    image = ImageConfig(height=4, width=5, channels=3)
    np.testing.assert_array_equal(preprocessing.sum_levels(encoded, image), expected)
