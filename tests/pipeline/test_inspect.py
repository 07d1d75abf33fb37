"""`vaeline inspect` as people run it."""

import json
from pathlib import Path

from tests import archives
from tests.pipeline.test_cli import assert_refused, vaeline


def test_classes_and_warnings_of_an_archive(tmp_path: Path) -> None:
    files = {**archives.classes(4), "cat/Thumbs.db": b"x", "bad/text.png": b"no image"}
    path = archives.write(tmp_path / "a.zip", files)
    done = vaeline("inspect", str(path), "--json", "--logs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["complete"]
    assert result["members"] == len(files)
    assert result["read"]["ignored"] == 1
    assert result["estimate"] is None
    for part in ("3 classes", "labels: from the folder of the image", "rejected: 1: not_an_image",
                 "fewer than 5 images", "Thumbs.db"):  # fmt: skip
        assert part in done.stderr, part


def test_an_estimate_of_a_run(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes(20))
    done = vaeline("inspect", str(path), "--config", "digits", "--json", "--logs", str(tmp_path),
                   "--set", "trainer.batch_size=8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)["estimate"]
    assert 0 < estimate["images"] <= 60
    assert estimate["training_seconds"] == (40 * estimate["images"] / estimate["images_per_second"])
    assert estimate["disk_bytes"] > 60 * len(archives.png())
    assert estimate["memory_bytes"] > 60 * 64
    assert not list(tmp_path.glob("vaeline-inspect-*"))


def test_what_cannot_be_inspected_is_named(tmp_path: Path) -> None:
    assert_refused(vaeline("inspect", str(tmp_path / "no.zip"), cwd=tmp_path), "no such file")
    (tmp_path / "a.zip").write_bytes(b"no zip")
    assert_refused(vaeline("inspect", str(tmp_path / "a.zip"), cwd=tmp_path), "a.zip: not a zip")
    done = vaeline("inspect", "a.zip", "--set", "trainer.epochs=3", cwd=tmp_path)
    assert_refused(done, "trainer: without --config only keys of input can be set")
