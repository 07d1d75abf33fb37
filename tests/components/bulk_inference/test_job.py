"""The bulk job as a whole, on the local runner: what comes out is what the model serves."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.bulk_inference.config import BulkConfig
from components.bulk_inference.job import run_bulk
from components.bulk_inference.model_card import verdict_notes
from components.image_sources.config import InputConfig, LimitsConfig
from components.image_sources.label_config import LabelsConfig
from tests.archives import tar_bytes
from tests.components.bulk_inference.archives import (
    broken,
    digits,
    mixed,
    png,
    write_folder,
    write_zip,
)
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.components.bulk_inference.model_fixture import BOUNDS, copy_model, export_model
from tests.numeric import assert_close
from trainer.errors import InputError
from trainer.model_card import (
    CalibrationReport,
    ModelCard,
    VerdictThreshold,
    VerdictThresholds,
)
from trainer.quality.calibration import conformal_threshold


def served(model: Path, members: dict[str, bytes]) -> dict[str, np.ndarray]:
    """What the signature `annotate` answers, all members in one batch."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))
    answer = loaded.signatures["annotate"](image_bytes=tf.constant(list(members.values())))
    return {name: value.numpy() for name, value in answer.items()}


def test_a_model_of_too_few_calibration_images_for_a_verdict_is_named() -> None:
    def notes(images: int, score: float | None) -> list[str]:
        review = VerdictThreshold(score=score, rate=0.05)
        report = CalibrationReport(images=images, thresholds=VerdictThresholds(review=review))
        return verdict_notes(ModelCard(calibration=report), ["label", "verdict"])

    (note,) = notes(18, None)
    assert "18 calibration images, and a threshold of the outlier score takes 19" in note
    assert conformal_threshold(np.arange(18.0), 0.05)[0] == np.inf
    assert conformal_threshold(np.arange(19.0), 0.05)[0] == 18.0
    assert notes(19, 18.0) == verdict_notes(ModelCard(), ["verdict"]) == []


@pytest.mark.parametrize(("write", "name"), [(write_zip, "held.zip"), (write_folder, "held")])
def test_an_unlabelled_archive_becomes_a_table(
    write: Callable[[Path, dict[str, bytes]], Path],
    name: str,
    tmp_path: Path,
    run_job: RunJob,
    read_table: ReadTable,
) -> None:
    members = digits(50) | {"x_wide.png": png(np.tile(np.eye(8, dtype=np.uint8) * 90, (1, 5)))}
    members |= {"x_blank.png": png(np.full((8, 8), 9, np.uint8))}
    members = dict(sorted(members.items()))
    archive = write(tmp_path / name, members)
    result = run_job(archive)
    assert (result.members, result.rows, result.rejects) == (52, 52, 0)
    table = read_table(tmp_path / "out")
    assert table["member"].to_pylist() == sorted(members)
    assert table["key"].to_pylist() == [f"{archive}/{name}" for name in sorted(members)]
    assert table["given_label"].null_count == 52
    assert table.schema.field("embedding").type.list_size == 4
    assert set(table["model_digest"].to_pylist()) == {"model-7"}
    assert sum(result.labels.values()) == sum(result.verdicts.values()) == 52
    found = dict(zip(members, table["findings"].to_pylist(), strict=True))
    assert found["x_blank.png"] == ["blank"]
    assert found["x_wide.png"] == ["dark", "odd_aspect_ratio", "odd_size"]
    assert sum(map(len, found.values())) == 4
    counts = {"blank": 1, "dark": 1, "odd_aspect_ratio": 1, "odd_size": 1}
    assert (result.findings, result.with_findings) == (counts, 2)
    manifest = json.loads((tmp_path / "out/_manifest.json").read_text())
    assert (manifest["findings"], manifest["finding_bounds"]) == (counts, BOUNDS)


def test_numbers_that_are_no_class_of_the_model_are_named(tmp_path: Path, run_job: RunJob) -> None:
    images = list(digits(6).values())
    labels = [b"3", b"77", b"78", b"77", b"zebra", b"-"]
    members = {f"{at}.png": images[at] for at in range(6)}
    members |= {f"{at}.cls": label for at, label in enumerate(labels)}
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes(dict(sorted(members.items()))))
    result = run_job(archive, input=InputConfig(paths=(str(archive),)))
    assert (
        "given labels that are numbers and no class of the model: 3 ('77', '78');"
        " input.labels.names gives the names"
    ) in result.notes
    again = run_job(archive, input=InputConfig(paths=(str(archive),)))
    assert again.notes == result.notes


def test_folders_of_years_are_no_numbers_of_classes(tmp_path: Path, run_job: RunJob) -> None:
    members = {f"{2020 + at}/{at}.png": image for at, image in enumerate(digits(3).values())}
    archive = write_zip(tmp_path / "a.zip", members)
    assert not run_job(archive, input=InputConfig(paths=(str(archive),))).notes


@pytest.mark.parametrize("accurate_jpeg", [True, False])
def test_numbers_equal_those_of_the_served_signature(
    accurate_jpeg: bool, tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    members = mixed()
    model = export_model(tmp_path / "m" / "3", accurate_jpeg=accurate_jpeg)
    columns = ("member", "label", "probability", "probabilities", "embedding", "elbo",
               "outlier_score", "verdict", "top_k_labels", "top_k_probabilities",
               "findings")  # fmt: skip
    run_job(write_zip(tmp_path / "a.zip", members), model=str(tmp_path / "m"), columns=columns)
    table = read_table(tmp_path / "out")
    expected = served(model, members)
    assert table["member"].to_pylist() == list(members)
    # Whether the graph decodes an image or not.
    large = ["odd_size" in found for found in table["findings"].to_pylist()]
    assert large == [name.startswith(("photo", "scan")) for name in members]
    for name in ("probability", "elbo", "outlier_score"):
        assert_close(table[name].to_numpy(), expected[name], name)
    for name in ("probabilities", "embedding", "top_k_probabilities"):
        flat = np.concatenate([chunk.flatten() for chunk in table[name].chunks])
        assert_close(flat, expected[name].ravel(), name)
    for name in ("label", "verdict", "top_k_labels"):
        assert table[name].to_pylist() == np.char.decode(expected[name].astype("S")).tolist(), name


def test_bad_members_are_rejected_once_and_the_count_law_holds(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", {**broken(), **digits(30)})
    result = run_job(archive)
    assert (result.members, result.rows, result.rejects) == (37, 30, 7)
    assert read_table(tmp_path / "out")["member"].to_pylist() == list(digits(30))
    rejects = read_table(tmp_path / "out", "rejects").to_pydict()
    assert sorted(rejects["member"]) == sorted(broken())
    reasons = dict(zip(rejects["member"], rejects["reason"], strict=True))
    assert reasons["bad/empty.png"] == "empty"
    assert reasons["bad/text.png"] == "not_an_image"
    assert reasons["bad/cut.png"] == "truncated"
    assert reasons["bad/inner.zip"] == "nested_archive"
    assert sum(result.reasons.values()) == 7


def test_ignored_entries_are_counted(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    files = {f"caf\udce9/{name}": data for name, data in digits(5).items()}
    litter = {"a/.ipynb_checkpoints/1.png": b"x", "a/Thumbs.db": b"x", "__MACOSX/._1.png": b"x"}
    archive = write_folder(tmp_path / "tree", files | litter)
    result = run_job(archive)
    assert (result.members, result.rows, result.rejects, result.ignored) == (8, 5, 0, 3)
    (note,) = result.notes
    assert "not UTF-8" in note
    assert "'caf\\xe9' is 'caf\ufffd'" in note
    assert read_table(tmp_path / "out")["given_label"].to_pylist() == ["caf\ufffd"] * 5
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["counts"]["ignored"] == 3
    assert manifest["ignored"] == {
        "system": {"count": 2, "examples": ["__MACOSX/._1.png", "a/Thumbs.db"]},
        "hidden": {"count": 1, "examples": ["a/.ipynb_checkpoints/1.png"]},
    }
    assert manifest["sources"][str(archive)]["ignored"] == 3


def test_an_image_of_a_manifest_has_its_path_as_key(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    write_folder(tmp_path / "tree", digits(3))
    names = list(digits(3))
    lines = ["path", *(f"tree/{name}" for name in names), "tree/missing.png"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    run_job(tmp_path / "list.csv", max_rejected_share=0.5)
    keys = read_table(tmp_path / "out")["key"].to_pylist()
    assert keys == [f"{tmp_path}/tree/{name}" for name in names]
    rejects = read_table(tmp_path / "out", "rejects")
    assert rejects["key"].to_pylist() == [f"{tmp_path}/tree/missing.png"]


def test_the_manifest_says_what_the_table_is(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", {**broken(), **digits(30)})
    run_job(archive)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["counts"]["members"] == 37
    assert manifest["sources"][str(archive)]["rejects"] == 7
    assert manifest["model"]["digests"]["transform"] == "transform-7"
    assert [column["name"] for column in manifest["schema"]][:2] == ["key", "source"]
    assert manifest["output"]["files"] == 3 + 1


def test_a_finished_job_reads_no_image_again(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(40))
    run_job(archive)
    before = read_table(tmp_path / "out")
    result = run_job(archive)
    assert (result.units, result.units_done_now, result.members_done_now) == (3, 0, 0)
    assert (result.members, result.rows) == (40, 40)
    assert read_table(tmp_path / "out").equals(before)


def test_a_job_in_which_everything_failed_fails(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.png": b"text", "2.png": b"more text"})
    with pytest.raises(InputError, match=r"2 of 2 members were rejected, .*not_an.*/rejects$"):
        run_job(archive)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/no/such"}, r"/no/such: no such folder; give the folder of a pushed model"),
        ({"model": ""}, r"no model is named"),
        ({"output": ""}, r"no output is named"),
        ({"output": "/proc/no/such"}, r"/proc/no/such: the output cannot be written"),
        ({"columns": ("key", "colour")}, r"no column 'colour'"),
        ({"format": "npy", "columns": ("key",)}, r"needs the column `embedding`"),
        ({"input": None}, r"no archive is named"),
    ],
)
def test_wrong_settings_get_one_line(
    options: dict[str, object], message: str, tmp_path: Path, run_job: RunJob
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_job(write_zip(tmp_path / "a.zip", digits(2)), **options)
    assert "\n" not in str(caught.value)


def test_a_saved_model_of_someone_else_is_refused(tmp_path: Path, run_job: RunJob) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(InputError, match="not one of vaeline"):
        run_job(write_zip(tmp_path / "a.zip", digits(2)), model=str(tmp_path / "other"))


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, run_job: RunJob) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis.tex', which no bulk job wrote"):
        run_job(write_zip(tmp_path / "a.zip", digits(2)))


@pytest.mark.parametrize(
    ("paths", "output"), [("a", "a"), ("a/", "a/b/out"), ("*", "out"), ("a[1]", "a[1]/out")]
)
def test_an_output_among_the_images_is_refused(
    tmp_path: Path, model: Path, paths: str, output: str
) -> None:
    config = BulkConfig(
        input=InputConfig(paths=(f"{tmp_path}/{paths}",)),
        model=str(model),
        output=str(tmp_path / output),
        overwrite=True,
    )
    with pytest.raises(InputError, match="would read its own files as images; name an output else"):
        run_bulk(config)
    assert not list(tmp_path.iterdir())


def test_an_archive_that_does_not_exist_gets_one_line(tmp_path: Path, model: Path) -> None:
    config = BulkConfig(
        model=str(model),
        output=str(tmp_path / "out"),
        input=InputConfig(paths=(str(tmp_path / "none.zip"),)),
    )
    with pytest.raises(InputError, match=r"none\.zip"):
        run_bulk(config)


def test_open_limits_are_those_that_the_model_was_trained_with(
    tmp_path: Path, model: Path, run_job: RunJob
) -> None:
    limited = copy_model(model, tmp_path / "m")
    config = limited / "assets.extra/config.yaml"
    config.write_text('{"input": {"limits": {"max_pixels": 63}}}')
    archive = write_zip(tmp_path / "a.zip", digits(3))
    with pytest.raises(InputError, match="check/too_many_pixels"):
        run_job(archive, model=str(limited))
    paths, own = (str(archive),), LimitsConfig(max_pixels=64)
    inputs = InputConfig(paths=paths, limits=own)
    assert run_job(archive, model=str(limited), input=inputs).rows == 3
    config.write_text('{"input": {"limits": {"max_pixels": 64}}}')
    inputs = InputConfig.model_validate_json(
        InputConfig(paths=paths).model_dump_json(exclude_unset=True)
    )
    assert run_job(archive, model=str(limited), input=inputs).rows == 3


def test_numbers_have_the_names_that_they_had_in_training(
    tmp_path: Path, model: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    trained = copy_model(model, tmp_path / "m")
    config = trained / "assets.extra/config.yaml"
    config.write_text("input: {labels: {names: [zero, one]}}")
    images = list(digits(2).values())
    members = {"0.png": images[0], "0.cls": b"1", "1.png": images[1], "1.cls": b"7"}
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes(members))
    run_job(archive, model=str(trained), input=InputConfig(paths=(str(archive),)))
    assert read_table(tmp_path / "out")["given_label"].to_pylist() == ["one", None]
    own = InputConfig.model_validate({"paths": str(archive), "labels": {"names": []}})
    run_job(archive, model=str(trained), input=own)
    assert read_table(tmp_path / "out")["given_label"].to_pylist() == ["1", "7"]


def test_members_of_one_name_have_rows_and_keys_of_their_own(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = tmp_path / "twice.tar"
    with tarfile.open(archive, "w") as tar:
        for number, image in enumerate(digits(6).values()):
            entry = tarfile.TarInfo(f"{number % 4}.png")
            entry.size = len(image)
            tar.addfile(entry, io.BytesIO(image))
    for _ in range(2):  # the second time from the records
        result = run_job(archive)
        assert (result.members, result.rows) == (6, 6)
        (note,) = result.notes
        assert note.startswith(
            "2 images with the name of an earlier one of the same archive (0.png"
        )
    keys = read_table(tmp_path / "out")["key"].to_pylist()
    assert keys == [f"{archive}/{name}" for name in
                    ("0.png", "1.png", "2.png", "3.png", "0.png#2", "1.png#2")]  # fmt: skip


def test_a_label_that_cannot_be_read_is_none(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = tmp_path / "shard.tar"
    labels = (b'{"label": "5"}', b'{"label": ', b'{"label": [1, 2]}')
    with tarfile.open(archive, "w") as tar:
        for number, (label, image) in enumerate(zip(labels, digits(3).values(), strict=True)):
            for suffix, content in (("png", image), ("json", label)):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    assert run_job(archive).rejects == 0
    assert read_table(tmp_path / "out")["given_label"].to_pylist() == ["5", None, None]
    own = LabelsConfig(unreadable="reject")
    inputs = InputConfig(paths=(str(archive),), labels=own)
    result = run_job(archive, output=str(tmp_path / "own"), input=inputs, max_rejected_share=0.9)
    assert (result.rows, result.reasons) == (1, {"read/bad_label": 2})
