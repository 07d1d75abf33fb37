"""Near-duplicates of a bulk job: the table, resume, and what switches them on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from components.bulk_inference.output.ledger import Ledger
from tests import archives
from tests.components.bulk_inference.conftest import ReadTable, RunJob
from tests.near_copies import brighter, darker, picture, png_of, reencoded


def files() -> archives.Files:
    found = {f"{seed:02d}.png": png_of(picture(seed)) for seed in range(30)}
    found |= {f"{seed:02d}-b.png": png_of(brighter(picture(seed))) for seed in range(0, 30, 3)}
    return found | {"06-c.png": png_of(reencoded(picture(6))), "x.png": b"no image"}


def table(output: Path) -> pa.Table:
    return pq.read_table(output / "near_duplicates.parquet")


def groups(output: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in table(output).to_pylist():
        found.setdefault(row["group"], set()).add(Path(row["key"]).stem)
    return found


def test_groups_are_listed_by_key(tmp_path: Path, run_job: RunJob, read_table: ReadTable) -> None:
    path = archives.write(tmp_path / "a.zip", files())
    result = run_job(path, near_duplicates=True)
    assert (result.near_groups, result.near_images) == (10, 21)
    rows = table(tmp_path / "out").to_pylist()
    expected = [{f"{seed:02d}", f"{seed:02d}-b"} for seed in range(0, 30, 3)]
    expected[2].add("06-c")
    assert sorted(map(sorted, groups(tmp_path / "out").values())) == sorted(map(sorted, expected))
    labelled = read_table(tmp_path / "out").to_pylist()
    digests = {row["key"]: row["sha256"] for row in labelled}
    assert all(digests[row["key"]] == row["sha256"] for row in rows)
    assert all(row["distance"] == 0 for row in rows if row["key"] == row["group"])
    # The column that docs/bulk.md joins to the rows.
    near = table(tmp_path / "out")
    joined = {
        row["key"]: group.as_py()
        for batch in ds.dataset(tmp_path / "out" / "table").to_batches(columns=["key"])
        for row, group in zip(
            batch.to_pylist(),
            near["group"].take(pc.index_in(batch["key"], value_set=near["key"])),
            strict=True,
        )
    }
    assert {key for key, group in joined.items() if group} == set(near["key"].to_pylist())
    assert joined.keys() == digests.keys()
    # A job with nothing to do reads the counts only.
    again = run_job(path, near_duplicates=True)
    assert again.units_done_now == 0
    assert (again.near_groups, again.near_images) == (10, 21)


def test_a_resumed_job_compares_all_units(tmp_path: Path, run_job: RunJob) -> None:
    path = archives.write(tmp_path / "a.zip", files())
    run_job(path, near_duplicates=True)
    whole = table(tmp_path / "out")
    # As if it had been killed before the last unit was finished.
    name = max(Ledger(str(tmp_path / "out")).finished_names())
    Ledger(str(tmp_path / "out")).forget(name)
    result = run_job(path, near_duplicates=True)
    assert result.units_done_now == 1
    assert table(tmp_path / "out").equals(whole)


def test_a_grown_archive_is_compared_again(tmp_path: Path, run_job: RunJob) -> None:
    path = archives.write(tmp_path / "a.zip", files())
    run_job(path, near_duplicates=True)
    archives.write(tmp_path / "a.zip", {**files(), "zz.png": png_of(darker(picture(1)))})
    result = run_job(path, near_duplicates=True)
    assert (result.near_groups, result.near_images) == (11, 23)


def test_it_is_off_by_default(tmp_path: Path, run_job: RunJob) -> None:
    path = archives.write(tmp_path / "a.zip", files())
    assert run_job(path).near_images == 0
    assert not (tmp_path / "out/near_duplicates.parquet").exists()
    assert not (tmp_path / "out/_near").exists()
    # Switching it on makes the table anew, and says so.
    result = run_job(path, near_duplicates=True)
    assert result.near_images == 21
    assert any("near_duplicates changed" in note for note in result.notes)


def test_nothing_to_compare(tmp_path: Path, run_job: RunJob) -> None:
    flat = {f"{level}.png": png_of(picture(0) * 0 + level) for level in range(5)}
    result = run_job(archives.write(tmp_path / "a.zip", flat), near_duplicates=True)
    assert (result.rows, result.near_groups, result.near_images) == (5, 0, 0)
