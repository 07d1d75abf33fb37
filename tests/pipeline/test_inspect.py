"""`vaeline inspect` as people run it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import archives
from tests.forked import vaeline
from tests.pipeline.test_cli import assert_refused


def test_classes_and_warnings_of_an_archive(tmp_path: Path) -> None:
    files = {**archives.classes(4), "cat/Thumbs.db": b"x", "bad/text.png": b"no image",
             "bad/a.jxl": b"\xff\x0a123456", "bad/b.jpg": b"\xff\x0a123456"}  # fmt: skip
    path = archives.write(tmp_path / "a.zip", files)
    done = vaeline("inspect", str(path), "--json", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["complete"]
    assert result["members"] == len(files)
    assert result["read"]["ignored"] == 1
    assert result["estimate"] is None
    assert "3 of 15 members rejected (20.0%, the limit" in result["fault"]
    assert result["fault"].endswith("not_an_image 1")
    for part in ("3 classes", "labels: from the folder of the image",
                 "rejected: 3: unsupported_format (2), not_an_image (1)",
                 "2 rejected: unsupported_format, JPEG XL (bad/a.jxl; bad/b.jpg)",
                 "1 rejected: not_an_image (bad/text.png: content starts with",
                 "fewer than 5 images", "Thumbs.db", "a run would stop: "):  # fmt: skip
        assert part in " ".join(done.stderr.split()), part


def estimate(path: Path, logs: Path, *options: str) -> dict[str, Any]:
    done = vaeline("inspect", str(path), "--config", "digits", "--json", "--logs", str(logs),
                   "--set", "trainer.batch_size=8", *options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["estimate"]
    assert ("│ 50 images" in done.stderr) == (found["unlabelled"] > 0)
    return found


@pytest.fixture
def partly_labelled(tmp_path: Path) -> Path:
    free = {f"unlabelled/{i}.png": archives.png(i) for i in range(100, 150)}
    return archives.write(tmp_path / "a.zip", {**archives.classes(20), **free})


def test_an_estimate_of_a_run(tmp_path: Path, partly_labelled: Path) -> None:
    given = estimate(partly_labelled, tmp_path, "--set", "trainer.semi_supervised.enabled=false")
    assert 0 < given["images"] <= 60
    assert given["unlabelled"] == 0
    assert given["training_seconds"] == pytest.approx(
        40 * given["images"] / given["images_per_second"]
    )
    assert given["disk_bytes"] > 110 * len(archives.png())
    # The measured steps alone take 700 MiB, a run of the digits 1,500.
    assert given["memory_bytes"] > 1200 << 20
    assert not list(tmp_path.glob("vaeline-inspect-*"))


def test_an_estimate_counts_what_has_no_label(tmp_path: Path, partly_labelled: Path) -> None:
    given = estimate(partly_labelled, tmp_path, "--set", "trainer.semi_supervised.starts=3",
                     "--set", "evaluation.labelled_only=report")  # fmt: skip
    assert given["unlabelled"] == 50
    passes = 1 + 2 * 0.5
    assert given["training_seconds"] == pytest.approx(
        passes * 40 * given["images"] / given["images_per_second"]
    )
    assert given["labelled_only_seconds"] > 0


def test_what_cannot_be_inspected_is_named(tmp_path: Path) -> None:
    assert_refused(vaeline("inspect", str(tmp_path / "no.zip"), cwd=tmp_path), "no such file")
    (tmp_path / "a.zip").write_bytes(b"no zip")
    assert_refused(vaeline("inspect", str(tmp_path / "a.zip"), cwd=tmp_path), "a.zip: not a zip")
    done = vaeline("inspect", "a.zip", "--set", "trainer.epochs=3", cwd=tmp_path)
    assert_refused(done, "trainer: without --config only keys of input can be set")
