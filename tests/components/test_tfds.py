"""A TFDS dataset, prepared here, gives the classes and counts that IDX files and a zip give."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig
from components.image_sources.fingerprint import fingerprint
from components.image_sources.sources import ImageSource
from tests import archives
from trainer.errors import InputError

pytestmark = pytest.mark.slow

NAMES = ("zero", "one", "two")
SIZES = {"train": 60, "test": 15}


def images_of(split: str) -> tuple[np.ndarray, list[int]]:
    """uint8 [n, 28, 28] and labels; all different."""
    offset = 0 if split == "train" else 1000
    stack = [archives.pixels(offset + i, 28, 28)[:, :, 0] for i in range(SIZES[split])]
    return np.stack(stack), [i % 3 for i in range(SIZES[split])]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepares the dataset `tiny_digits`."""
    tfds = pytest.importorskip("tensorflow_datasets")

    base: Any = tfds.core.GeneratorBasedBuilder

    class TinyDigits(base):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self) -> Any:
            image = tfds.features.Image(shape=(28, 28, 1))
            label = tfds.features.ClassLabel(names=list(NAMES))
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in SIZES}

        def _generate_examples(self, split: str) -> Any:
            for i, (image, label) in enumerate(zip(*images_of(split), strict=True)):
                yield i, {"image": image[:, :, None], "label": label}

    folder = tmp_path_factory.mktemp("tfds")
    TinyDigits(data_dir=str(folder)).download_and_prepare()
    return folder


def run(output: Path, **config: Any) -> Account:
    return ingest(
        InputConfig.model_validate(config), str(output), lambda: beam.Pipeline(FnApiRunner())
    )


def test_three_ways_to_the_same_counts(data_dir: Path, tmp_path: Path) -> None:
    by_tfds = {"paths": "tfds:tiny_digits:1.2.0", "tfds": {"data_dir": str(data_dir)}}
    (tmp_path / "idx").mkdir()
    files: dict[str, bytes] = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = images_of(split)
        archives.write_idx(tmp_path / "idx", stem, images, labels, pack=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = cv2.imencode(".png", image)[1].tobytes()
            files[f"{split}/{NAMES[label]}/{i}.png"] = encoded
    accounts = [
        run(tmp_path / "1", **by_tfds),
        run(tmp_path / "2", paths=str(tmp_path / "idx"), labels={"names": NAMES}),
        run(tmp_path / "3", paths=str(archives.write(tmp_path / "a.zip", files))),
    ]
    for account in accounts:
        assert account.class_totals() == dict.fromkeys(NAMES, 25)
        assert account.by_split()["test"] == dict.fromkeys(NAMES, 5)
        assert account.images_in == 75
    config = InputConfig.model_validate(by_tfds)
    assert fingerprint(config) == fingerprint(config)


@pytest.mark.parametrize(
    ("path", "tfds", "message"),
    [
        ("tfds:no_such_dataset_at_all", {}, "TFDS has no such dataset"),
        ("tfds:mnist", {}, "not prepared in"),
        ("tfds:tiny_digits", {"image": "picture"}, "no image feature 'picture' among image, label"),
        ("tfds:tiny_digits", {"label": "class"}, "no feature 'class' among image, label; name it"),
    ],
)
def test_unusable_datasets(data_dir: Path, path: str, tfds: dict[str, str], message: str) -> None:
    config = {"paths": path, "tfds": {"data_dir": str(data_dir), **tfds}}
    with pytest.raises(InputError, match=message) as caught:
        list(ImageSource(InputConfig.model_validate(config)).units())
    assert "\n" not in str(caught.value)
