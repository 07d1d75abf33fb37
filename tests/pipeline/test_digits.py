"""The demonstration's archives."""

import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

from pipeline.digits import write_digits


def test_archives_hold_every_digit_once_and_the_held_out_ones_no_label(tmp_path: Path) -> None:
    archives = write_digits(tmp_path)
    with zipfile.ZipFile(archives.labelled) as labelled:
        classes = Counter(name.split("/")[1] for name in labelled.namelist())
    with zipfile.ZipFile(archives.held_out) as held_out:
        names = held_out.namelist()
    assert sum(classes.values()) + len(names) == 1797
    assert sorted(classes) == list("0123456789")
    assert len(names) == 359
    assert set(archives.held_out_labels) == set(names)


def test_a_member_is_the_digit_that_it_says(tmp_path: Path) -> None:
    archives = write_digits(tmp_path)
    digits = load_digits()
    name, label = next(iter(archives.held_out_labels.items()))
    with zipfile.ZipFile(archives.held_out) as held_out:
        image = cv2.imdecode(np.frombuffer(held_out.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
    number = int(Path(name).stem)
    assert str(digits.target[number]) == label
    np.testing.assert_array_equal(image, np.round(digits.images[number] * (255 / 16)))


def test_a_second_call_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    first = write_digits(tmp_path)
    before = first.labelled.stat()
    write_digits(tmp_path)
    assert first.labelled.stat().st_mtime_ns == before.st_mtime_ns
    assert first.labelled.stat().st_ino == before.st_ino
