"""What an ingest says of data that nothing can be learnt from or measured on."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from components.image_example_gen.account import Account, name_of
from components.image_example_gen.account_checks import check_account
from components.image_example_gen.ingest import ingest
from components.image_sources.config import InputConfig
from components.image_sources.origins import LABEL
from tests import archives
from trainer.errors import InputError


def message(tmp_path: Path, files: dict[str, bytes], **config: Any) -> str:
    """The line with which an ingest stops."""
    settings = {"paths": str(archives.write(tmp_path / "input.zip", files)), **config}
    with pytest.raises(InputError) as caught:
        ingest(
            InputConfig.model_validate(settings), str(tmp_path / "out"), beam.Pipeline, processes=0
        )
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{tmp_path}/")


def images(*folders: str, each: int = 30) -> dict[str, bytes]:
    names = [f"{folder}/{number}.png" for folder in folders for number in range(each)]
    return {name: archives.png(number) for number, name in enumerate(names)}


def test_one_class_only(tmp_path: Path) -> None:
    found = message(tmp_path, images("all/cats"))
    assert found.startswith("input.zip: one class only, 'cats' (30 images), and a classifier needs")
    assert "labels.level" in found


def test_no_labels_at_all(tmp_path: Path) -> None:
    files = {f"{number}.png": archives.png(number) for number in range(30)}
    found = message(tmp_path, files)
    assert "none of the 30 images has a label" in found
    assert "labels.level" in found
    assert "classify needs no labels" in found
    (tmp_path / "none").mkdir()
    assert "none of the 30 images" in message(
        tmp_path / "none", images("a", "b", each=15), labels={"source": "none"}
    )


def test_an_empty_test_split(tmp_path: Path) -> None:
    found = message(tmp_path, images("cat", "dog"), splits={"test": 0})
    assert "none of the 60 labelled images is in the test split" in found
    assert "input.splits.test is 0)" in found


def test_a_class_in_test_only(tmp_path: Path) -> None:
    files = images("train/cat", "train/dog", "test/cat", "test/cow")
    found = message(tmp_path, files)
    assert "no image in the train split for class 'cow' (30)" in found
    assert "in other splits by their names" in found


def test_ten_thousand_classes_of_two_images() -> None:
    account = Account()
    for number in range(10_000):
        # The shares of the default: one of four images is held out.
        split = "test" if number % 16 == 0 else "train"
        account.examples[name_of(split, f"c{number:05}")] = 2
    with pytest.raises(InputError) as caught:
        check_account(account, InputConfig(paths=("big.zip",)), "rejects")
    text = str(caught.value)
    assert "625 of 10,000 classes have no image in the train split: 'c00000' (2)" in text
    assert "and 620 more" in text
    assert "a hash holds 25% of the images out (validation, calibration, test)" in text
    assert "about 625.0 classes of these sizes" in text
    assert "splits.seed" not in text


def test_a_seed_is_advised_only_where_it_can_help(tmp_path: Path) -> None:
    account = Account()
    account.examples[name_of("train", "cat")] = 100
    account.examples[name_of("test", "cow")] = 3
    with pytest.raises(InputError, match=r"or change splits\.seed"):
        check_account(account, InputConfig(paths=("a.zip",)), "rejects")


def test_near_duplicates_that_took_a_class_out_of_train_are_named() -> None:
    account = Account()
    account.examples[name_of("train", "cat")] = 100
    account.examples[name_of("test", "cow")] = 100
    account.near["moved"] = 25
    config = InputConfig.model_validate({"paths": "a.zip", "duplicates": {"near": "group"}})
    with pytest.raises(InputError, match=r"for class 'cow' \(100\); near-duplicates share a split"):
        check_account(account, config, "rejects")


def test_a_class_for_each_image_is_no_class() -> None:
    account = Account()
    for number in range(100):
        account.examples[name_of("train", f"a photo of thing {number:02}")] = 1
    account.origins.add(LABEL, "the file beside the image", 100)
    with pytest.raises(
        InputError, match=r"100 classes for 100 images.*: the file beside the image"
    ):
        check_account(account, InputConfig(paths=("a.tar",)), "rejects")
