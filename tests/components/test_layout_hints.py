"""Layouts of data sets from which labels cannot be read as they stand: what the user is told."""

from pathlib import Path

import pytest

from components.image_example_gen.account_checks import check_account
from components.image_example_gen.input_overview import describe_input
from components.image_example_gen.survey import survey
from components.image_sources.config import InputConfig
from tests import archives
from trainer.errors import InputError

SPLITS_BELOW = [
    f"x/{label}/{split}/{number}.png"
    for label in ("cat", "dog")
    for split in ("train", "val")
    for number in range(9)
]
MASKS = [
    *(f"a/images/{number}.png" for number in range(9)),
    *(f"a/masks/{number}_mask.png" for number in range(9)),
]


def look(folder: Path, names: list[str]) -> tuple[list[str], str]:
    """The warnings about images of these names, and the line with which a run would stop."""
    files = {name: archives.png(number) for number, name in enumerate(names)}
    config = InputConfig.model_validate({"paths": str(archives.write(folder / "a.zip", files))})
    account = survey(config, full=True).account
    try:
        check_account(account, config)
    except InputError as error:
        return describe_input(account, config).warnings, str(error)
    return describe_input(account, config).warnings, ""


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (
            MASKS,
            "the files in 'masks/' (9) are called like those in 'images/' (9): if they are masks of"
            " these images and not images of a class, name only 'images/' in input.paths, or pack",
        ),
        (
            [f"{top}/{label}/{i}.png" for top in ("JPEGImages", "SegmentationClass")
             for label in ("cat", "dog") for i in range(9)],
            "the files in 'SegmentationClass/' (18) are called like those in 'JPEGImages/'",
        ),
        (
            SPLITS_BELOW,
            "'train/', 'val/' were taken for splits, and 36 images directly in them got no label;"
            " if the folders above them ('cat', 'dog') are the classes, set labels.level: 2",
        ),
        (
            ["cat/train/images/1.png", "dog/train/images/1.png"],
            "are the classes, set labels.level: 3",
        ),
        (
            ["1.png", "1.txt", "2.png", "2.lbl"],
            "2 files beside 2 images (1.txt, 2.lbl) were not read: if they hold the labels, list"
            " the image files in a CSV file with the columns path and label, and name that file",
        ),
    ],
)  # fmt: skip
def test_warnings(tmp_path: Path, names: list[str], warning: str) -> None:
    found, _ = look(tmp_path, names)
    assert any(warning in line for line in found), found


def test_ordinary_layouts_get_no_hint(tmp_path: Path) -> None:
    layouts = [
        [f"{label}/{i}.png" for label in ("mask", "no_mask") for i in range(9)],
        [f"images/{label}/{i}.png" for label in ("cat", "masks") for i in range(9)],
        [f"{label}/{i}.{kind}" for label in "ab" for i in range(9) for kind in ("png", "txt")],
        [f"{top}/train/{label}/{i}.png" for top in "xy" for label in "ab" for i in range(9)],
        [f"train/{i}.png" for i in range(9)],
    ]
    for names in layouts:
        found = " ".join(look(tmp_path, names)[0])
        for hint in ("are called like", "folders above them", "were not read"):
            assert hint not in found


def test_errors_say_what_to_set(tmp_path: Path) -> None:
    _, error = look(tmp_path, SPLITS_BELOW)
    assert "they lie in 'train/', 'val/', taken for splits; if the folders above them" in error
    assert error.endswith("('cat', 'dog') are the classes, set labels.level: 2")
    masks = [f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(30)]
    _, error = look(tmp_path, masks)
    assert "a.zip: one class only, 'masks' (30 images); the files in 'masks/' (30) are" in error
    _, error = look(tmp_path, [f"{number}.png" for number in range(9)])
    assert "or list the image files in a CSV file with the columns path and label" in error
    assert "archive holds one class" not in error
    config = InputConfig.model_validate({"paths": str(tmp_path / "*.zip")})
    with pytest.raises(InputError, match="if each archive holds one class, unpack it into"):
        check_account(survey(config, full=True).account, config)


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["cat.0.png", "dog.0.png", "dog.1.png"], r"(\w+)\.\d+\.png$", {"cat": 1, "dog": 2}),
        (
            ["images/Maine_Coon_12.png", "images/pug_1.png", "images/pug_7.png"],
            r"([^/]+)_\d+\.png$",
            {"Maine_Coon": 1, "pug": 2},
        ),
        (
            ["train/cat.0.png", "test/cat.1.png", "train/x/dog.2.png"],
            r"(cat|dog)",
            {"cat": 2, "dog": 1},
        ),
        (["1/a-cat.png", "2/b.png", "unlabelled/c-dog.png"], r"-(\w+)", {"cat": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "folder"])
def test_labels_in_names(
    tmp_path: Path, kind: str, names: list[str], pattern: str, expected: dict[str, int]
) -> None:
    files = {name: archives.png(number) for number, name in enumerate(names)}
    labels = {"pattern": pattern, "min_images": 1}
    path = str(archives.write(tmp_path / kind, files))
    config = InputConfig.model_validate({"paths": path, "labels": labels})
    account = survey(config, full=True).account
    assert account.class_totals() == expected
    splits = {name.partition("/")[0] for name in names} & {"train", "test"}
    assert splits <= {split for split, table in account.by_split().items() if table}
    warnings = describe_input(account, config).warnings
    unread = "1 image has no label: labels.pattern finds none in their names"
    assert (unread in warnings) is ("2/b.png" in names)


def test_no_labels_in_names(tmp_path: Path) -> None:
    files = {f"{number}.png": archives.png(number) for number in range(3)}
    labels = {"pattern": "([a-z]+)_"}
    path = str(archives.write(tmp_path / "a.zip", files))
    config = InputConfig.model_validate({"paths": path, "labels": labels})
    with pytest.raises(InputError, match=r"nothing to learn: labels\.pattern finds none"):
        check_account(survey(config, full=True).account, config)
    for wrong, fault in ((r"cat|dog", "has no group"), (r"(cat", "no regular expression")):
        with pytest.raises(ValueError, match=fault):
            InputConfig.model_validate({"paths": "a", "labels": {"pattern": wrong}})
