"""Ingest end to end: records, splits, duplicates, rejects, and the account that adds up."""

import errno
import io
import itertools
import json
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from components import tfrecord_frames
from components.image_checks import ImageHeader
from components.image_example_gen import duplicates, records
from components.image_example_gen.account import Account
from components.image_example_gen.ingest import ingest
from components.image_example_gen.parts import unwritable
from components.image_example_gen.splits import SLOTS, choose_slots, final_split, hashed_slots
from components.image_sources.config import InputConfig, SplitsConfig
from components.image_sources.example_proto import example_class
from tests import archives
from trainer.data import features
from trainer.errors import InputError
from trainer.storage import files

SMALL_UNITS = {"members": 5, "batch": 4}


def run(output: Path, **config: Any) -> Account:
    config.setdefault("units", SMALL_UNITS)
    return ingest(
        InputConfig.model_validate(config), str(output), lambda: beam.Pipeline(FnApiRunner())
    )


def read_records(output: Path) -> dict[str, list[dict[str, Any]]]:
    """All records by split, features as Python values."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in features.SPLITS:
        found[split] = []
        for path in sorted((output / f"Split-{split}").iterdir()):
            content = path.read_bytes()
            for start, size in tfrecord_frames.record_spans(io.BytesIO(content)):
                message = example_class().FromString(content[start : start + size])
                found[split].append(
                    {
                        name: list(feature.bytes_list.value or feature.int64_list.value)
                        for name, feature in message.features.feature.items()
                        if feature.WhichOneof("kind")
                    }
                )
    return found


def by_digest(output: Path) -> dict[bytes, tuple[str, Any]]:
    """Split and label of every record, by its content."""
    return {
        record[features.SHA256][0]: (split, record.get(features.LABEL_TEXT))
        for split, rows in read_records(output).items()
        for record in rows
    }


def test_records(tmp_path: Path) -> None:
    image = archives.jpeg(1)
    files = {**archives.classes(4), "cat/photo.jpg": image, "3.png": archives.png(77)}
    path = archives.write(tmp_path / "a.zip", files)
    account = run(tmp_path / "out", paths=str(path))
    found = read_records(tmp_path / "out")
    assert sum(map(len, found.values())) == account.images_in == 14
    (unlabelled,) = found["unlabelled"]
    assert features.LABEL_TEXT not in unlabelled
    photo = next(r for rows in found.values() for r in rows if r[features.FORMAT] == [b"jpeg"])
    import hashlib

    assert photo == {
        features.ENCODED: [image],
        features.FORMAT: [b"jpeg"],
        features.HEIGHT: [24],
        features.WIDTH: [40],
        features.CHANNELS: [3],
        features.FILENAME: [f"{path}/cat/photo.jpg".encode()],
        features.SHA256: [hashlib.sha256(image).hexdigest().encode()],
        features.LABEL_TEXT: [b"cat"],
    }


def test_encoding_is_that_of_protobuf() -> None:
    sizes = (0, 1, 127, 128, 5000, 70_000)
    data = [bytes(size) for size in sizes]
    headers = [ImageHeader("png", size + 1, 2 * size + 1, 3) for size in sizes]
    labels = ["cat", None, "", "ö" * 100, "dog", None]
    digests = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)
    keys = [f"a.zip/{size}/\udcff.png" for size in sizes]
    encoded = records.encode(keys, data, headers, digests, labels)
    for i, record in enumerate(encoded):
        expected = example_class()()
        values: dict[str, bytes | int] = {
            features.ENCODED: data[i],
            features.FILENAME: keys[i].encode("utf-8", "surrogateescape"),
            features.SHA256: digests[i].tobytes().hex().encode(),
            features.FORMAT: b"png",
            features.HEIGHT: headers[i].height,
            features.WIDTH: headers[i].width,
            features.CHANNELS: 3,
        }
        label = labels[i]
        if label is not None:
            values[features.LABEL_TEXT] = label.encode()
        for name, value in values.items():
            feature = expected.features.feature[name]
            kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
            kind.value.append(value)
        assert example_class().FromString(record) == expected
        assert len(record) == expected.ByteSize()


def test_checksums_are_what_tensorflow_expects() -> None:
    assert tfrecord_frames.frame([b"abc"]) == archives.tfrecord_bytes([b"abc"])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.zst", "m.csv", "m.jsonl", "tree"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    files = {**archives.classes(12), "cat/again.png": archives.png(0)}
    first = run(tmp_path / "zip", paths=str(archives.write(tmp_path / "a.zip", files)))
    other = run(tmp_path / "other", paths=str(archives.write(tmp_path / name, files)))
    assert by_digest(tmp_path / "zip") == by_digest(tmp_path / "other")
    assert first.examples == other.examples
    assert first.duplicates.total() == other.duplicates.total() == 1


def test_order_and_unit_size_change_nothing(tmp_path: Path) -> None:
    files = archives.classes(12)
    backwards = dict(reversed(files.items()))
    run(tmp_path / "one", paths=str(archives.write(tmp_path / "a.zip", files)))
    path = archives.write(tmp_path / "b.zip", backwards)
    run(tmp_path / "two", paths=str(path), units={"members": 7, "max_bytes": 500})
    assert by_digest(tmp_path / "one") == by_digest(tmp_path / "two")


def test_account_adds_up_over_every_defect(tmp_path: Path) -> None:
    bad = archives.defects()
    files = {**archives.classes(6), **{name: data for name, (data, _) in bad.items()}}
    files |= {"cat/same.png": archives.png(0), "cat/16.png": archives.png16()}
    path = archives.write(tmp_path / "a.zip", files)
    account = run(
        tmp_path / "out", paths=str(path), max_rejected_share=0.9, limits={"max_bytes": 100_000}
    )
    stored = json.loads((tmp_path / "out/account.json").read_text())
    # A zip tells a bomb by its directory before any image is looked at.
    assert stored["rejects_by_reason"] == Counter(reason for _, reason in bad.values())
    table = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    assert {row["member"]: row["reason"] for row in table} == {
        name: reason for name, (_, reason) in bad.items()
    }
    assert {row["source"] for row in table} == {str(path)}
    assert stored["images_in"] == len(files) == account.images_in
    assert stored["examples"] == 19
    assert stored["duplicates_dropped"] == 1
    assert stored["converted_to_png"] == 1
    assert stored["formats"] == {"png": 20}
    assert stored["sizes"] == {"12x9": 20}
    assert sum(stored["splits"].values()) == 19
    assert stored["classes"] == ["cat", "dog", "öl"]
    assert sorted(os.listdir(tmp_path / "out")) == [
        *(f"Split-{split}" for split in sorted(features.SPLITS)),
        "account.json",
        "duplicates.parquet",
        "findings.parquet",
        "rejects.parquet",
    ]
    # Too few training images to learn from.
    assert (stored["finding_bounds"], stored["images_with_findings"]) == ({}, 0)
    assert sum(map(len, read_records(tmp_path / "out").values())) == 19


def test_named_splits_keep_their_images(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in archives.classes(40).items()}
    files |= {f"test/cat/{i}.png": archives.png(50_000 + i) for i in range(5)}
    account = run(tmp_path / "out", paths=str(archives.write(tmp_path / "a.zip", files)))
    splits = {split: sum(classes.values()) for split, classes in account.by_split().items()}
    assert splits["test"] == 5
    assert splits["train"] + splits["validation"] + splits["calibration"] == 120
    assert splits["validation"] > 0 < splits["calibration"]
    assert account.named_splits == ["test", "train"]


def test_duplicates_are_dropped_by_source_order(tmp_path: Path) -> None:
    files = archives.classes(4)
    copy = archives.png(0)
    files |= {"0.png": copy, "dog/copy.png": copy, "cat/copy.png": copy}
    path = archives.write(tmp_path / "a.zip", dict(sorted(files.items())))
    account = run(tmp_path / "out", paths=str(path))
    assert account.duplicates.total() == 3
    assert account.conflicts == 1
    kept = [r for rows in read_records(tmp_path / "out").values() for r in rows]
    names = [r[features.FILENAME][0].decode().rpartition("a.zip/")[2] for r in kept]
    # The unlabelled copy comes first in the archive, but a label is worth more.
    assert "cat/0.png" in names
    assert not {"0.png", "cat/copy.png", "dog/copy.png"} & set(names)
    table = pq.read_table(tmp_path / "out/duplicates.parquet").to_pylist()
    assert {
        (row["image"].rpartition("a.zip/")[2], row["label"], row["dropped"]) for row in table
    } == {
        ("0.png", None, True),
        ("cat/0.png", "cat", False),
        ("cat/copy.png", "cat", True),
        ("dog/copy.png", "dog", True),
    }
    assert all(row["conflict"] for row in table)
    named = json.loads((tmp_path / "out/account.json").read_text())["label_conflict_names"]
    assert [row[1:] for row in named if row[2]] == [
        [f"{path}/cat/0.png", "cat"],
        [f"{path}/cat/copy.png", "cat"],
        [f"{path}/dog/copy.png", "dog"],
    ]


def test_kept_duplicates_never_straddle_splits(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in archives.classes(10).items()}
    files |= {"train/cat/copy.png": archives.png(1), "test/cat/copy.png": archives.png(1)}
    files |= {"test/cat/x.png": archives.png(999_999)}
    path = archives.write(tmp_path / "a.zip", files)
    account = run(tmp_path / "out", paths=str(path), duplicates="keep")
    assert account.copies_kept == 1
    assert account.duplicates == Counter({"test\0cat": 1})
    places = Counter(
        (record[features.SHA256][0], split)
        for split, rows in read_records(tmp_path / "out").items()
        for record in rows
    )
    assert len({digest for digest, _ in places}) == len(places) == 31
    assert sum(places.values()) == 32


def test_all_images_the_same(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": archives.png(1) for name in "ab" for i in range(30)}
    path = archives.write(tmp_path / "a.zip", files)
    with pytest.raises(InputError, match=r"fewer than 2 images: 'a' \(1\)"):
        run(tmp_path / "out", paths=str(path))


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        (
            {**archives.classes(4), "lone/1.png": archives.png(9999)},
            {},
            r"classes with fewer than 2 images: 'lone' \(1\); add images",
        ),
        (
            {**archives.classes(4), "cat/x.png": b"text"},
            {},
            r"1 of 13 members rejected \(7.7%, the limit max_rejected_share is 5.0%\): not_an_i",
        ),
        ({"cat/x.png": b"text"}, {}, "no usable image among 1 members"),
        ({"cat/": b""}, {}, "no images; the archive or folder is empty"),
        (
            {f"test/cat/{i}.png": archives.png(i) for i in range(3)},
            {},
            "no image in the train split for class 'cat'",
        ),
    ],
)
def test_unusable_inputs_stop_the_run(
    tmp_path: Path, files: dict[str, bytes], config: dict[str, Any], message: str
) -> None:
    path = archives.write(tmp_path / "a.zip", files)
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path / "out", paths=str(path), **config)
    assert "\n" not in str(caught.value)
    kept = tmp_path / "out-rejects.parquet"
    assert kept.exists() == ("; see " in str(caught.value)) == (b"text" in files.values())


def test_fault_in_a_worker_is_the_same_one_line(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.tar.gz", archives.classes(30))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(InputError, match=r"a\.tar\.gz: .*cut short") as caught:
        run(tmp_path / "out", paths=str(path), format="tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left to write to; free some, or choose another root"),
        (errno.EDQUOT, "no space left to write to; free some, or choose another root"),
        (errno.EROFS, "cannot be written to; check its owner, mode and mount"),
        (errno.EACCES, "cannot be written to; check its owner, mode and mount"),
        (errno.EIO, "cannot be written to: Input/output error"),
    ],
)
def test_failures_to_write_are_worded(code: int, message: str) -> None:
    error = unwritable("/data/out", OSError(code, os.strerror(code)))
    assert str(error) == f"/data/out: {message}"


def test_output_in_the_place_of_a_file(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes())
    with pytest.raises(InputError, match="cannot be written to"):
        run(path, paths=str(path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = files.writing

    def writing(path: str) -> Any:
        return original(path) if ".tfrecord" not in path else open("/dev/full", "wb")

    monkeypatch.setattr(files, "writing", writing)
    path = archives.write(tmp_path / "a.zip", archives.classes())
    with pytest.raises(InputError, match="no space left to write to; free some") as caught:
        run(tmp_path / "out", paths=str(path))
    assert str(caught.value).startswith(str(tmp_path / "out"))


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.image_example_gen import ingest as module

    monkeypatch.setattr(module, "_INTERVAL_SECS", 0.001)
    path = archives.write(tmp_path / "a.zip", archives.classes(40))
    told: list[int] = []
    module.ingest(
        InputConfig(paths=(str(path),)),
        str(tmp_path / "out"),
        lambda: beam.Pipeline(FnApiRunner()),
        progress=lambda members, _: told.append(members),
    )
    assert told == sorted(told)
    assert told[-1] == 120


DIGESTS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=50)


@given(DIGESTS, st.integers(0, 2**63 - 1))
def test_splits_depend_on_content_alone(digests: list[bytes], seed: int) -> None:
    config = SplitsConfig(seed=seed)
    columns = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    together = hashed_slots(columns, config).tolist()
    assert together == [int(hashed_slots(row[None], config)[0]) for row in columns]
    assert together[::-1] == hashed_slots(columns[::-1], config).tolist()


def test_shares_are_met_and_stable() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (100_000, 32), np.uint8)
    config = SplitsConfig(validation=0.2, calibration=0.05, test=0.1)
    slots = hashed_slots(digests, config)
    counts = Counter(SLOTS[slot] for slot in slots.tolist())
    expected = {"train": 0.65, "validation": 0.2, "calibration": 0.05, "test": 0.1}
    for split, share in expected.items():
        assert counts[f"pool-{split}"] / 1e5 == pytest.approx(share, abs=0.005)
    other = hashed_slots(digests, config.model_copy(update={"validation": 0.5}))
    test = SLOTS.index("pool-test")
    np.testing.assert_array_equal(slots == test, other == test)
    reseeded = hashed_slots(digests, config.model_copy(update={"seed": 1}))
    assert ((slots == test) & (reseeded == test)).mean() == pytest.approx(0.01, abs=0.003)


def test_slots_of_named_splits() -> None:
    digests = np.zeros((5, 32), np.uint8)
    named = [None, "train", "test", "validation", "test"]
    labels = ["a", "a", "a", "a", None]
    slots = choose_slots(digests, labels, named, SplitsConfig())
    names = [SLOTS[slot] for slot in slots.tolist()]
    assert names[0] == names[1]
    assert names[0].startswith("pool-")
    assert names[2:] == ["test", "validation", "unlabelled"]
    validation = SLOTS.index("pool-validation")
    assert final_split(validation, {"train", "test"}) == "validation"
    assert final_split(validation, {"train", "validation"}) == "train"


ROWS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["a", "b", None])), max_size=40)


@given(ROWS, st.integers(1, 7), st.booleans(), st.randoms())
def test_duplicates_against_the_plain_way(
    rows: list[tuple[int, str | None]], part_size: int, drop_all: bool, random: Any
) -> None:
    """The packed comparison decides as a loop over all images would, in any order of parts."""
    unlabelled = SLOTS.index("unlabelled")
    parts = []
    for number, start in enumerate(range(0, len(rows), part_size)):
        part = rows[start : start + part_size]
        digests = np.array([[content] * 32 for content, _ in part], np.uint8)
        slots = np.array([unlabelled if label is None else 0 for _, label in part], np.uint8)
        labels = [label for _, label in part]
        packed = duplicates.columns(digests, labels, slots, 0)
        ordered, bounds = duplicates.partition(packed)
        size = duplicates.ROW.itemsize
        parts += [
            (number, ordered[start * size : stop * size])
            for start, stop in itertools.pairwise(bounds)
        ]
    random.shuffle(parts)
    found = set()
    for number, requests in duplicates.find(parts, drop_all):
        for row, role, conflict in np.frombuffer(requests, duplicates.REQUEST).tolist():
            found.add((number * part_size + row, role, conflict))
    expected = set()
    for content in range(7):
        copies = [i for i, row in enumerate(rows) if row[0] == content]
        if len(copies) < 2:
            continue
        copies.sort(key=lambda i: (rows[i][1] is None, i))
        conflict = len({rows[i][1] for i in copies} - {None}) > 1
        stays = rows[copies[0]][1] is None
        for rank, i in enumerate(copies):
            goes = drop_all or (rows[i][1] is None) != stays
            role = duplicates.FIRST if not rank else duplicates.DROPPED if goes else duplicates.KEPT
            expected.add((i, role, conflict))
    assert found == expected


def test_zip_with_duplicate_names_keeps_both(tmp_path: Path) -> None:
    path = archives.write(tmp_path / "a.zip", archives.classes(3))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("cat/0.png", archives.png(777))
    assert run(tmp_path / "out", paths=str(path)).images_in == 10


@pytest.mark.slow
def test_worker_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beam starts its workers by a shell.
    environment = tmp_path / "named & spaced"
    environment.symlink_to(sys.prefix)
    python = environment / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    files = {**archives.classes(20), "cat/copy.png": archives.png(1), "cat/bad.png": b"x"}
    path = archives.write(tmp_path / "a.zip", files)
    here = run(tmp_path / "here", paths=str(path))
    args = ["--runner=components.process_runner.ProcessRunner"]
    there = ingest(
        InputConfig.model_validate({"paths": str(path), "units": SMALL_UNITS}),
        str(tmp_path / "there"),
        lambda: beam.Pipeline(argv=[*args, "--direct_num_workers=2"]),
    )
    assert there.examples == here.examples
    assert there.duplicates == here.duplicates
    assert read_records(tmp_path / "there") == read_records(tmp_path / "here")
