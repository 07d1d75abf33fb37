"""Corrections: what people changed, applied by content, wherever an archive is."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.image_sources.config import InputConfig
from components.image_sources.corrections import TAKEN_OUT, read_corrections
from components.image_sources.fingerprint import fingerprint
from tests import archives
from tests.components.test_image_example_gen import read_records, run
from trainer.data import features
from trainer.errors import InputError
from trainer.storage.config import StorageConfig


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, labels: dict[str, str]) -> str:
    """Writes a file of corrections as `vaeline review apply` does, with columns of its own."""
    lines = [f"{digest},{label},some/key.png,ada" for digest, label in labels.items()]
    path.write_text("\n".join(["sha256,label,key,reviewer", *lines]) + "\n", "utf-8-sig")
    return str(path)


def labels_by_digest(output: Path) -> dict[str, str | None]:
    rows = [row for rows in read_records(output).values() for row in rows]
    return {
        sha256(row[features.ENCODED][0]): row[features.LABEL_TEXT][0].decode()
        if row.get(features.LABEL_TEXT)
        else None
        for row in rows
    }


@pytest.mark.parametrize("name", ["a.zip", "moved/b.tar"])
def test_labels_are_corrected_wherever_the_archive_is(tmp_path: Path, name: str) -> None:
    files = archives.classes(12)
    (tmp_path / "moved").mkdir()
    path = archives.write(tmp_path / name, files)
    wrong, out = files["cat/0.png"], next(files[key] for key in files if key.startswith("dog/"))
    given = write(tmp_path / "c.csv", {sha256(wrong): "dog", sha256(out): TAKEN_OUT})
    plain = run(tmp_path / "plain", paths=str(path))
    account = run(tmp_path / "out", paths=str(path), labels={"corrections": given})
    before, after = labels_by_digest(tmp_path / "plain"), labels_by_digest(tmp_path / "out")
    assert before[sha256(wrong)] == "cat"
    assert after[sha256(wrong)] == "dog"
    assert sha256(out) not in after
    changed = {digest for digest in after if after[digest] != before[digest]}
    assert changed == {sha256(wrong)}
    assert account.corrected == 1
    assert account.images_in == plain.images_in
    assert account.rejected == {"taken_out": 1}
    stored = json.loads((tmp_path / "out/account.json").read_text())
    assert stored["labels_corrected"] == 1
    (reject,) = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    assert (reject["stage"], reject["reason"]) == ("check", "taken_out")


def test_images_taken_out_are_no_sign_of_a_damaged_archive(tmp_path: Path) -> None:
    files = archives.classes(12)
    path = archives.write(tmp_path / "a.zip", files)
    out = {sha256(data): TAKEN_OUT for key, data in files.items() if key.startswith("cat/")}
    given = write(tmp_path / "c.csv", out)
    account = run(tmp_path / "out", paths=str(path), labels={"corrections": given})
    assert account.rejected == {"taken_out": 12}


def test_a_class_called_like_the_mark_of_images_taken_out_is_refused(tmp_path: Path) -> None:
    files = {name.replace("cat/", "-/"): data for name, data in archives.classes(12).items()}
    path = archives.write(tmp_path / "a.zip", files)
    images = {name: sha256(data) for name, data in files.items()}
    given = write(tmp_path / "c.csv", {images["-/0.png"]: "dog"})
    account = run(tmp_path / "out", paths=str(path), labels={"corrections": given})
    assert account.corrected == 1
    read_corrections.cache_clear()
    given = write(tmp_path / "c.csv", {images["-/0.png"]: TAKEN_OUT})
    with pytest.raises(InputError, match=r"a\.zip: '-' is a class with \d+ images, but in labels"):
        run(tmp_path / "out", paths=str(path), labels={"corrections": given})


def test_a_later_file_takes_precedence(tmp_path: Path) -> None:
    digest = sha256(b"an image")
    first = write(tmp_path / "1.csv", {digest: "cat", sha256(b"other"): "dog"})
    second = write(tmp_path / "2.csv", {digest: TAKEN_OUT})
    found = read_corrections((first, second), StorageConfig())
    assert found.is_taken_out(bytes.fromhex(digest))
    assert found.label(bytes.fromhex(sha256(b"other")), None) == "dog"
    assert found.label(bytes.fromhex(sha256(b"no correction")), "owl") == "owl"


def test_another_correction_is_another_input(tmp_path: Path) -> None:
    path = str(archives.write(tmp_path / "a.zip", archives.classes(3)))
    given = write(tmp_path / "c.csv", {sha256(b"1"): "cat"})
    plain = fingerprint(InputConfig(paths=(path,)))
    config = InputConfig.model_validate({"paths": path, "labels": {"corrections": given}})
    first = fingerprint(config)
    write(tmp_path / "c.csv", {sha256(b"1"): "dog"})
    assert len({plain, first, fingerprint(config)}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key,label\na,b\n", "c.csv: no column 'sha256'; name a corrections.csv that"),
        ("sha256,label\nabc,cat\n", "c.csv: row 2 has no SHA-256; correct or remove it"),
        (f"sha256,label\n{'0' * 64},\n", "c.csv: row 2 has no label; correct or remove it"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(InputError) as caught:
        read_corrections((str(tmp_path / "c.csv"),), StorageConfig())
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"none\.csv: no such file or folder"):
        read_corrections((str(tmp_path / "none.csv"),), StorageConfig())
