"""Resume, increments, copies: a table is the same however often the job was stopped."""

import shutil
from pathlib import Path

import pytest

from components.bulk_inference.config import EngineConfig
from tests.components.bulk_inference.archives import digits, write_folder, write_zip
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.components.bulk_inference.killed_jobs import killed_at_many_moments
from tests.components.bulk_inference.model_fixture import copy_model
from tests.numeric import assert_close, assert_same_table
from trainer.errors import InputError


def test_a_grown_zip_costs_only_its_new_members(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    run_job(write_zip(tmp_path / "a.zip", digits(40)))
    grown = run_job(write_zip(tmp_path / "a.zip", digits(70)))
    assert (grown.members, grown.rows) == (70, 70)
    # Two full units of 16 stay; the third, of 8 members, is cut anew and keeps its rows.
    assert (grown.units, grown.units_done_now, grown.reused) == (5, 3, 8)
    table = read_table(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run_job(tmp_path / "a.zip")
    assert_same_table(read_table(tmp_path / "out"), table)


def test_a_damaged_record_is_named_and_made_anew_without_it(
    tmp_path: Path, run_job: RunJob
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(40))
    run_job(archive)
    (tmp_path / "out" / "_manifest.json").unlink()
    record = min((tmp_path / "out" / "_units").rglob("*.json"))
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(InputError, match=f"{record.name}: damaged or cut short; remove it"):
        run_job(archive)
    record.unlink()
    assert run_job(archive).rows == 40


def test_files_put_between_others_keep_the_rows_of_those(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    folder = write_folder(tmp_path / "a", {f"x/{name}": data for name, data in digits(40).items()})
    run_job(folder)
    write_folder(folder, {f"b/{name}": data for name, data in digits(3, 60).items()})
    grown = run_job(folder)
    assert (grown.rows, grown.reused) == (43, 40)
    table = read_table(tmp_path / "out")
    assert table["given_label"].to_pylist() == ["b"] * 3 + ["x"] * 40
    shutil.rmtree(tmp_path / "out")
    run_job(folder)
    assert_same_table(read_table(tmp_path / "out"), table)


def test_rows_that_are_gone_are_made_again(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20) | {"text.png": b"text"})
    run_job(archive)
    before = read_table(tmp_path / "out")
    first, _ = sorted((tmp_path / "out/table").rglob("*.parquet"))
    first.unlink()
    result = run_job(archive)
    assert (result.units_done_now, result.rows) == (1, 20)
    assert result.notes == ["units made again, as files are gone or cut short: 1"]
    assert_same_table(read_table(tmp_path / "out"), before)
    first.write_bytes(first.read_bytes()[:-1])
    assert run_job(archive).units_done_now == 1
    assert_same_table(read_table(tmp_path / "out"), before)
    shutil.rmtree(tmp_path / "out/rejects")
    assert run_job(archive).units_done_now == 1
    shutil.rmtree(tmp_path / "out/table")
    assert run_job(archive).units_done_now == 2
    assert run_job(archive).units_done_now == 0


def test_a_changed_member_is_made_anew(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    members = digits(20)
    run_job(write_zip(tmp_path / "a.zip", members))
    before = read_table(tmp_path / "out")
    first, second = list(members)[:2]
    members[first], members[second] = members[second], members[first]
    result = run_job(write_zip(tmp_path / "a.zip", members))
    after = read_table(tmp_path / "out")
    assert result.reused == 14
    embeddings = after["embedding"].to_pylist(), before["embedding"].to_pylist()
    assert_close(embeddings[0][:2], embeddings[1][1::-1])
    # These rows were taken over, so they are the same to the last bit.
    assert after.slice(2).to_pylist() == before.slice(2).to_pylist()


def test_members_that_are_gone_leave_the_table(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    run_job(write_zip(tmp_path / "a.zip", digits(40)))
    result = run_job(write_zip(tmp_path / "a.zip", digits(10)))
    assert (result.members, result.rows, result.reused) == (10, 10, 10)
    assert read_table(tmp_path / "out")["member"].to_pylist() == list(digits(10))


def test_kept_rows_of_a_moved_archive_name_its_new_place(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    (tmp_path / "moved").mkdir()
    moved = archive.rename(tmp_path / "moved/a.zip")
    assert run_job(moved).reused == 20
    table = read_table(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run_job(moved)
    assert_same_table(read_table(tmp_path / "out"), table)


def test_files_that_no_record_names_leave_the_table(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    """A unit is killed before its record is written, or forgotten when its record is removed."""
    output = tmp_path / "out"
    run_job(write_zip(tmp_path / "a.zip", digits(40) | {"text.png": b"text"}))
    records = sorted((output / "_units").rglob("*.json"))
    assert len(records) == 3
    for record in records[1:]:
        record.unlink()
    (output / "_manifest.json").unlink()
    run_job(write_zip(tmp_path / "a.zip", digits(10)))
    assert read_table(output)["member"].to_pylist() == list(digits(10))
    assert not list((output / "rejects").rglob("*.parquet"))


def test_a_changed_model_starts_afresh_and_says_so(
    tmp_path: Path, model: Path, run_job: RunJob
) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    digests = {name: f"{name}-8" for name in ("model", "transform", "calibration", "code")}
    other = copy_model(model, tmp_path / "other", digests=digests, findings=None)
    result = run_job(archive, model=str(other))
    assert result.units_done_now == 2
    assert result.reused == 0
    assert result.notes == [
        "findings are left out: the model has no bounds for them; train it again (at least 50"
        " training images)",
        "started afresh: columns, calibration, code, model, transform, findings changed since the"
        " table was made",
    ]


def test_refusing_is_an_option(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    with pytest.raises(ValueError, match="its table differs in columns"):
        run_job(archive, columns=("key", "label"), on_change="refuse")


def test_overwrite_does_everything_again(tmp_path: Path, run_job: RunJob) -> None:
    archive = write_zip(tmp_path / "a.zip", digits(20))
    run_job(archive)
    result = run_job(archive, overwrite=True)
    assert (result.units_done_now, result.notes) == (2, ["started afresh: --overwrite"])


def test_copies_are_left_out_and_counted(
    tmp_path: Path, run_job: RunJob, read_table: ReadTable
) -> None:
    members = digits(30)
    copies = {f"copy_{name}": data for name, data in list(members.items())[:10]}
    copies["copy_of_bad"] = copies["copy_of_bad_2"] = b"text"
    archive = write_zip(tmp_path / "a.zip", members | copies | digits(5, 40))
    result = run_job(archive, duplicates="drop")
    assert (result.members, result.rows, result.rejects, result.duplicates) == (47, 35, 1, 11)
    assert read_table(tmp_path / "out")["member"].to_pylist() == [*members, *digits(5, 40)]
    skipped = read_table(tmp_path / "out", "duplicates")["key"].to_pylist()
    assert skipped == [f"{archive}/{name}" for name in copies if name != "copy_of_bad"]
    assert run_job(archive, duplicates="drop").units_done_now == 0
    kept = run_job(archive, overwrite=True)
    assert (kept.rows, kept.rejects, kept.duplicates) == (45, 2, 0)


@pytest.mark.slow
def test_killed_at_many_moments_the_table_is_that_of_an_undisturbed_job(
    tmp_path: Path, model: Path, read_table: ReadTable
) -> None:
    killed_at_many_moments(EngineConfig(), tmp_path, model, read_table, kills=7)
