"""The numbers behind the pages, on cases that can be worked out by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy import special

from components import tfrecord_frames
from components.image_sources.config import InputConfig
from components.image_sources.pick import pick_members
from pipeline.report import findings, plots
from pipeline.report.album import Album, decode_picture, sheet, square
from pipeline.report.answers import Answers
from pipeline.report.page import _environment
from pipeline.report.sampled_records import sample_split
from pipeline.report.table_scan import scan_table
from tests.components.bulk_inference.archives import write_zip
from tests.pipeline.report.conftest import Images, synthetic_rows
from trainer.quality.plane import plane


def answers(probabilities: list[list[float]], labels: list[int]) -> Answers:
    p = np.array(probabilities, np.float32)
    n = len(p)
    return Answers(
        [b""] * n, [""] * n, np.array(labels), p, np.zeros((n, 2)), np.zeros(n), ["accept"] * n,
        [str(k) for k in range(p.shape[1])], n,
    )  # fmt: skip


def test_confusion_and_figures_of_classes() -> None:
    given = answers([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5]], [0, 0, 1, 1, -1])
    assert findings.confusion_counts(given).tolist() == [[2, 0], [1, 1]]
    first, second = findings.by_class(given)
    assert (first.images, first.recall, first.precision) == (2, 1.0, pytest.approx(2 / 3))
    assert (second.recall, second.precision, second.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    assert second.confidence == pytest.approx((0.4 + 0.7) / 2)
    assert findings.confident_mistakes(given, 5).tolist() == [2]
    assert findings.least_certain(given, 2).tolist() == [4, 2]


def test_the_temperature_is_undone() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 3
    calibrated = special.softmax(logits / 0.4, axis=1)
    back = findings.uncalibrated(calibrated, 0.4)
    np.testing.assert_allclose(back, special.softmax(logits, axis=1), rtol=1e-9)


def test_confident_learning_finds_flipped_labels() -> None:
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 4, 600)
    logits = draw.normal(size=(600, 4))
    logits[np.arange(600), truth] += 6.0
    labels = truth.copy()
    flipped = draw.choice(600, 30, replace=False)
    labels[flipped] = (truth[flipped] + 1) % 4
    found = findings.doubtful_labels(
        answers(special.softmax(logits, axis=1).tolist(), labels.tolist()), 600
    )
    assert len(set(found) & set(flipped)) >= 28
    assert len(set(found) - set(flipped)) <= 6
    assert set(found[:20]) <= set(flipped)


def test_the_plane_is_that_of_the_principal_components() -> None:
    draw = np.random.default_rng(1)
    points = draw.normal(size=(400, 5)) * [5.0, 3.0, 0.1, 0.1, 0.1]
    flat, kept = plane(points)
    assert kept > 0.99
    assert abs(np.corrcoef(flat[:, 0], points[:, 0])[0, 1]) > 0.999
    two = draw.normal(size=(9, 2))
    assert plane(two)[0] == pytest.approx(two)
    # A test split of one image.
    assert plane(points[:1])[0].tolist() == [[0, 0]]


def test_every_value_is_in_a_bin_of_a_histogram() -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=29).astype(np.float32)
        high = float(np.quantile(values, 0.999))
        counts, _ = plots.count_in_bins(values, (float(values.min()), high))
        assert counts.sum() == 29
        assert counts[-1] >= 1


def test_records_are_sampled_evenly_over_files(tmp_path: Path) -> None:
    folder = tmp_path / "Split-test"
    folder.mkdir()
    rows = [f"record {place}".encode() * (1 + place % 5) for place in range(100)]
    (folder / "a").write_bytes(tfrecord_frames.frame(rows[:37]))
    (folder / "b").write_bytes(tfrecord_frames.frame([]))
    (folder / "c").write_bytes(tfrecord_frames.frame(rows[37:]))
    whole = sample_split(tmp_path, "test", most=1000, most_bytes=10**6)
    assert list(whole.records) == rows
    some = sample_split(tmp_path, "test", most=10, most_bytes=10**6)
    assert (some.total, list(some.records)) == (100, [rows[place] for place in range(0, 100, 11)])
    assert sum(map(len, sample_split(tmp_path, "test", most=100, most_bytes=900).records)) <= 900


def test_a_class_that_is_never_predicted_is_disagreed_with(tmp_path: Path) -> None:
    lines = ["key,source,member,label,given_label,probability"]
    lines += [f"{name},s,{name},cat,{name},0.9" for name in ("cat", "dog", "zebra")]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    scan = scan_table(str(tmp_path), ["table.csv"], "csv", rows=3, groups={},
                      listed={"doubtful": 9, "outlying": 9, "disagreeing": 9, "group": 9},
                      classes=("cat", "dog"))  # fmt: skip
    assert [row.member for row in scan.lists["disagreeing"]] == ["dog"]
    assert (scan.given, scan.unknown, scan.agreeing) == (3, 1, 1)


@pytest.mark.parametrize("table_format", ["parquet", "csv", "npy"])
def test_a_table_is_scanned_shard_by_shard(tmp_path: Path, table_format: str) -> None:
    table = synthetic_rows(5_000)
    dark = np.arange(0, 5_000, 700)
    if table_format != "csv":
        kinds = [["dark", "grey"] if place in dark else [] for place in range(5_000)]
        kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
        table = table.append_column("findings", pa.array(kinds, kind))
    files = []
    for number, begin in enumerate(range(0, 5_000, 1_700)):
        part = table.slice(begin, 1_700)
        if table_format == "csv":
            plain = part.cast(pa.schema([(f.name, _plain(f.type)) for f in part.schema]))
            pa.csv.write_csv(plain, tmp_path / f"table-{number}.csv")
            files.append(f"table-{number}.csv")
        else:
            suffix = ".parquet" if table_format == "parquet" else ".index.parquet"
            pq.write_table(part, tmp_path / f"table-{number}{suffix}")
            files.append(f"table-{number}{suffix}")
    frame = table.to_pydict()
    verdicts = {v: frame["verdict"].count(v) for v in ("accept", "review", "reject")}
    groups = verdicts | ({"dark": len(dark)} if table_format != "csv" else {})
    listed = {"doubtful": 9, "outlying": 4, "disagreeing": 3, "group": 5}
    scan = scan_table(str(tmp_path), files, table_format, rows=5_000, groups=groups,
                      listed=listed, classes=sorted(set(frame["given_label"])))  # fmt: skip
    assert scan.rows == 5_000
    assert scan.every == 1
    np.testing.assert_allclose(scan.values["probability"], frame["probability"], rtol=1e-6)
    order = np.argsort(frame["probability"], kind="stable")
    assert [row.member for row in scan.lists["doubtful"]] == [frame["member"][i] for i in order[:9]]
    highest = np.argsort(-np.array(frame["outlier_score"]))[:4]
    assert [row.member for row in scan.lists["outlying"]] == [frame["member"][i] for i in highest]
    same = [a == b for a, b in zip(frame["label"], frame["given_label"], strict=True)]
    assert (scan.given, scan.unknown, scan.agreeing) == (5_000, 0, sum(same))
    scan = scan_table(str(tmp_path), files, table_format, rows=5_000, groups=groups,
                      listed=listed, classes=frame["given_label"][:1])  # fmt: skip
    others = [label != frame["given_label"][0] for label in frame["given_label"]]
    assert scan.unknown == sum(others)
    surest = max((p for p, s in zip(frame["probability"], same, strict=True) if not s))
    assert scan.lists["disagreeing"][0].probability == pytest.approx(surest)
    reviewed = [m for m, v in zip(frame["member"], frame["verdict"], strict=True) if v == "review"]
    wanted = np.linspace(0, len(reviewed) - 1, 5).astype(int)
    assert [row.member for row in scan.lists["review"]] == [reviewed[i] for i in wanted]
    assert scan.lists["reject"] == []
    if table_format != "csv":
        shown = dark[np.linspace(0, len(dark) - 1, 5).astype(int)]
        assert [row.member for row in scan.lists["dark"]] == [f"{at:06d}.png" for at in shown]


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) else kind


def test_single_members_are_fetched_from_zips_and_folders(tmp_path: Path, images: Images) -> None:
    members = {f"a/{place}.png": content for place, content in enumerate(images.files)}
    write_zip(tmp_path / "a.zip", members)
    folder = tmp_path / "tree"
    for name in ("a/3.png", "a/7.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(members[name])
    wanted = {
        str(tmp_path / "a.zip"): {"a/5.png", "a/150.png", "gone.png"},
        str(folder): {"a/7.png"},
        str(tmp_path / "nowhere.zip"): {"x.png"},
    }
    found = pick_members(InputConfig(paths=tuple(wanted)), wanted)
    assert found == {
        (str(tmp_path / "a.zip"), "a/5.png"): members["a/5.png"],
        (str(tmp_path / "a.zip"), "a/150.png"): members["a/150.png"],
        (str(folder), "a/7.png"): members["a/7.png"],
    }


def test_an_album_keeps_its_budget() -> None:
    draw = np.random.default_rng(0)
    album = Album(budget=20_000)
    noise = [draw.integers(0, 256, (300, 200, 3), np.uint8) for _ in range(40)]
    pictures = [album.picture(pixels) for pixels in noise]
    kept = [picture for picture in pictures if picture]
    assert sum(len(picture.uri) for picture in kept) <= 20_000
    assert len(kept) + album.left_out == 40
    assert (kept[0].height, kept[0].width) == (112, 75)
    assert album.picture(None) is None
    assert decode_picture(b"no image") is None


def test_tiles_and_sheets_keep_their_pixels() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    tile = square(image, 6)
    assert tile.shape == (6, 6, 1)
    assert (tile[1:4, 1:5] == image).all()
    assert (tile[0] == 128).all()
    laid = sheet([image, image + 50, image + 100], columns=2)
    assert laid.shape == (6, 8, 1)
    assert (laid[3:, :4] == image + 100).all()
    assert (laid[3:, 4:] == 128).all()


def test_a_long_class_name_does_not_clip_the_probability() -> None:
    macros = _environment().get_template("macros.html").module
    card = {"picture": None, "alt": "", "lines": ["<long>" * 20, "labelled"], "figure": "98.3 %"}
    text = str(macros.gallery([card]))  # type: ignore[attr-defined]
    assert f'<bdi class="clip">{"&lt;long&gt;" * 20}</bdi> <span>98.3 %</span>' in text
