"""Labels as people really store them: in shards of any order, under any key, as any kind."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components import tfrecord_frames
from components.image_sources.config import InputConfig
from components.image_sources.example_proto import example_class
from components.image_sources.label_values import LabelValueError, read_label
from components.image_sources.locate import Locator
from components.image_sources.sources import ImageSource
from components.image_sources.unpacking import PlainStream
from components.tfrecord_frames import frame
from tests import archives
from tests.components.test_image_sources import members, read_all, rejects
from trainer.errors import InputError


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("cat", "cat"),
        (" cat ", "cat"),
        (b"cat", "cat"),
        (b"caf\xe9", "caf\udce9"),
        (np.bytes_(b"cat"), "cat"),
        (np.str_("cat"), "cat"),
        (3, "3"),
        (3.0, "3"),
        (np.int64(3), "3"),
        (np.float32(3), "3"),
        (pa.scalar(3), "3"),
        (pa.scalar(b"cat"), "cat"),
        (-1, "-1"),
        (0.5, "0.5"),
        (True, "true"),
        ([3], "3"),
        ((b"cat",), "cat"),
        (np.array(["cat"]), "cat"),
        (None, None),
        (float("nan"), None),
        ("", None),
        ("  ", None),
        ("1.0", "1.0"),
    ],
)
def test_values_of_labels(value: Any, label: str | None) -> None:
    assert read_label(value) == label


@pytest.mark.parametrize("value", [1, 1.0, "1", b"1", "01", np.uint8(1), [1]])
def test_numbers_get_their_names(value: Any) -> None:
    assert read_label(value, ["cat", "dog"]) == "dog"
    assert read_label("cow", ["cat", "dog"]) == "cow"


def test_numbers_in_text() -> None:
    assert read_label("1.0", is_text=True) == "1"
    assert read_label("1.0", ["cat", "dog"], is_text=True) == "dog"
    assert read_label("1.5", is_text=True) == "1.5"
    assert read_label("v1.0", is_text=True) == "v1.0"


@pytest.mark.parametrize("value", [["cat", "dog"], {"id": 1}, [], [[1, 2]], object()])
def test_what_is_no_label(value: Any) -> None:
    with pytest.raises(LabelValueError, match="is no label"):
        read_label(value)


@pytest.mark.parametrize("number", [2, -1, "7", 1e9])
def test_numbers_without_a_name(number: Any) -> None:
    with pytest.raises(LabelValueError, match="has no name among the 2"):
        read_label(number, ["cat", "dog"])


def record(**features: Any) -> bytes:
    """A tf.Example; `__` stands for `/`."""
    message = example_class()()
    for name, value in {"image__encoded": archives.png(len(features)), **features}.items():
        feature = message.features.feature[name.replace("__", "/")]
        for item in value if isinstance(value, list) else [value]:
            kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(item)]
            getattr(feature, kind).value.append(item)
    return message.SerializeToString()


def labels_of(tmp_path: Path, *records: bytes, **config: Any) -> list[str | None]:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(frame(records))
    return [row[1] for row in members(read_all(paths=str(path), **config)).values()]


@pytest.mark.parametrize(
    ("features", "label"),
    [
        ({"image__class__label": b"3"}, "3"),
        ({"image__class__label": b"cat"}, "cat"),
        ({"image__class__label": 3.0}, "3"),
        ({"image__class__label": -1}, None),
        ({"image__class__label": [3]}, "3"),
        ({"image__class__text": 3}, "3"),
        ({"image__class__text": b"", "image__class__label": 3}, "3"),
        ({"image__class__text": b"cat", "image__class__label": 3}, "cat"),
        ({}, None),
    ],
)
def test_labels_of_records(tmp_path: Path, features: dict[str, Any], label: str | None) -> None:
    assert labels_of(tmp_path, record(**features)) == [label]


def test_names_for_numbers_of_any_kind(tmp_path: Path) -> None:
    kinds: list[Any] = [1, 1.0, b"1"]
    found = labels_of(
        tmp_path,
        *(record(image__class__label=kind) for kind in kinds),
        labels={"names": ["cat", "dog"]},
    )
    assert found == ["dog"] * 3


def test_records_with_several_labels_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(frame([record(image__class__label=[1, 2]), record(other=1)]))
    batches = read_all(paths=str(path))
    assert rejects(batches) == {"00000000": "bad_label"}
    assert len(members(batches)) == 1
    batches = read_all(paths=str(path), labels={"unreadable": "ignore"})
    assert [row[1] for row in members(batches).values()] == [None, None]


@pytest.mark.parametrize("option", ["label", "label_text", "encoded", "filename"])
def test_a_configured_feature_that_no_record_has(tmp_path: Path, option: str) -> None:
    records = [record(image__class__label=1, image__class__text=b"cat")]
    with pytest.raises(InputError) as caught:
        labels_of(tmp_path, *records, tfrecord={option: "typo"})
    message = str(caught.value)
    assert f"no record has the feature 'typo' of tfrecord.{option}" in message
    assert "'image/class/label', 'image/class/text', 'image/encoded'" in message


def test_images_under_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    message = example_class()()
    message.features.feature["jpeg"].bytes_list.value.append(archives.png())
    path.write_bytes(frame([message.SerializeToString()]))
    with pytest.raises(InputError, match=r"'image/encoded' of tfrecord.encoded; they have 'jpeg'"):
        read_all(paths=str(path))
    assert len(members(read_all(paths=str(path), tfrecord={"encoded": "jpeg"}))) == 1


def test_a_configured_feature_may_be_missing_in_some_records(tmp_path: Path) -> None:
    records = [record(), record(breed=b"pug")]
    assert labels_of(tmp_path, *records, tfrecord={"label": "breed"}) == [None, "pug"]


def test_a_configuration_that_went_through_json_asks_for_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(frame([record()]))
    config = InputConfig.model_validate_json(InputConfig(paths=(str(path),)).model_dump_json())
    source = ImageSource(config)
    assert sum(len(batch) for unit in source.units() for batch in source.read(unit)) == 1


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_packed_file_of_any_name(
    tmp_path: Path, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord_frames, "_PACKED_BYTES", 7)
    path = tmp_path / "a.tfrecord"
    packed = compress(frame([record(image__class__text=b"cat")] * 50))
    path.write_bytes(packed)
    assert [row[1] for row in members(read_all(paths=str(path))).values()] == ["cat"] * 50
    path.write_bytes(packed[:-9])
    with pytest.raises(InputError, match="damaged or cut short"):
        read_all(paths=str(path))


def shard(tmp_path: Path, files: dict[str, bytes], name: str = "s.tar") -> str:
    (tmp_path / name).write_bytes(archives.tar_bytes(files))
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "suffix", ["jfif", "jpe", "JPG", "apng", "tiff", "heic", "avif", "seg.png", "bin", "weird"]
)
def test_samples_are_judged_by_content(tmp_path: Path, suffix: str) -> None:
    files = {"1.png": archives.png(1), "1.cls": b"3", f"2.{suffix}": archives.png(2), "2.cls": b"4"}
    batches = read_all(paths=shard(tmp_path, files))
    assert {name: row[1] for name, row in members(batches).items()} == {
        "1.png": "3",
        f"2.{suffix}": "4",
    }
    assert sum(batch.members for batch in batches) == len(files)


@pytest.mark.parametrize(
    ("suffix", "content", "label"),
    [
        ("cls", b"3", "3"),
        ("cls", b"3.0\n", "3"),
        ("txt", b"golden retriever\n", "golden retriever"),
        ("json", b'{"label": 1.0}', "1"),
        ("json", b'{"label": "cat"}', "cat"),
        ("json", b'{"class": true}', "true"),
        ("json", b'{"label": null, "class": 2}', "2"),
        ("json", b'{"label": 0}', "0"),
        ("json", b'{"other": 1}', None),
        ("json", b"7", "7"),
    ],
)
def test_labels_of_samples(tmp_path: Path, suffix: str, content: bytes, label: str | None) -> None:
    path = shard(tmp_path, {"1.png": archives.png(1), f"1.{suffix}": content})
    assert [row[1] for row in members(read_all(paths=path)).values()] == [label]


@pytest.mark.parametrize("content", [b'{"label": [1, 2]}', b'{"label": ', b"cat"])
def test_what_is_no_label_beside_a_sample(tmp_path: Path, content: bytes) -> None:
    files = {"1.png": archives.png(1), "1.json": content}
    assert rejects(read_all(paths=shard(tmp_path, files))) == {"1.png": "bad_label"}
    batches = read_all(paths=shard(tmp_path, files), labels={"unreadable": "ignore"})
    assert {name: row[1] for name, row in members(batches).items()} == {"1.png": None}


def test_labels_before_their_images(tmp_path: Path) -> None:
    files = {f"{i}.cls": b"%d" % (i % 3) for i in range(50)}
    files |= {f"{i}.png": archives.png(i) for i in range(50)}
    batches = read_all(paths=shard(tmp_path, files), format="webdataset")
    found = {name: row[1] for name, row in members(batches).items()}
    assert found == {f"{i}.png": str(i % 3) for i in range(50)}


@pytest.mark.parametrize("count", [20, 300])
def test_labels_behind_all_images_are_not_lost_in_silence(tmp_path: Path, count: int) -> None:
    files = {f"{i}.png": archives.png(i) for i in range(count)}
    files |= {f"{i}.cls": b"%d" % (i % 3) for i in range(count)}
    path = shard(tmp_path, files)
    with pytest.raises(InputError, match=r"sort the shard .* labels\.source: none"):
        read_all(paths=path)
    batches = read_all(paths=path, format="webdataset", labels={"source": "none"})
    assert len(members(batches)) == count
    assert sum(batch.ignored.counts["side_file"] for batch in batches) == count


def test_captions_are_no_classes(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(3):
        about = {"caption": f"photo {number}", "url": "http://x", "key": str(number)}
        files[f"0000{number}.jpg"] = archives.jpeg(number)
        files[f"0000{number}.json"] = json.dumps(about).encode()
        files[f"0000{number}.txt"] = f"a photo of thing {number}".encode()
    path = shard(tmp_path, files)
    with pytest.raises(InputError, match=r"captions.* set labels\.source: none"):
        read_all(paths=path)
    assert len(members(read_all(paths=path, labels={"source": "none"}))) == 3


def test_a_folder_of_shards_says_how_to_name_them(tmp_path: Path) -> None:
    shard(tmp_path, {"1.png": archives.png(1), "1.cls": b"3"}, "00000.tar")
    (tmp_path / "00000.parquet").write_bytes(b"x")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"a folder of archives .* name them: .*/\*\.tar$"):
        read_all(paths=str(tmp_path))
    assert len(members(read_all(paths=f"{tmp_path}/*.tar"))) == 1


def test_annotations_in_folders_of_classes_are_no_labels(tmp_path: Path) -> None:
    # As LabelMe writes them; in a folder or a zip the label is the name of the folder.
    path = shard(tmp_path, {"cat/1.png": archives.png(1), "cat/1.json": b'{"shapes": []}'})
    assert [row[1] for row in members(read_all(paths=path)).values()] == ["cat"]
    path = shard(tmp_path, {"cat/1.png": archives.png(1), "cat/1.json": b'{"label": "dog"}'})
    assert [row[1] for row in members(read_all(paths=path)).values()] == ["dog"]


def test_a_tar_is_recognised_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path, {f"{i}.png": archives.png(i) for i in range(9)})
    read: list[int] = []
    original = PlainStream.read

    def counted(stream: PlainStream, size: int) -> bytes:
        read.append(size)
        return original(stream, size)

    monkeypatch.setattr(PlainStream, "read", counted)
    monkeypatch.setattr("components.image_sources.webdataset._PEEKED_BYTES", 1500)
    assert list(Locator(InputConfig(paths=(path,))).sources()) == [(path, "tar")]
    assert sum(read) < 5 * 1024


def test_a_record_with_several_images_is_rejected(tmp_path: Path) -> None:
    message = example_class().FromString(archives.example(image__encoded=b"x"))
    message.features.feature["image/encoded"].bytes_list.value.append(b"y")
    (tmp_path / "a.tfrecord").write_bytes(frame([message.SerializeToString()]))
    batches = read_all(paths=str(tmp_path / "a.tfrecord"))
    (reject,) = (reject for batch in batches for reject in batch.rejects)
    assert reject.detail == "2 values under 'image/encoded'; an image has one"


@pytest.mark.parametrize("name", ["a.tfrec", "a.record", "train"])
def test_records_of_any_name(tmp_path: Path, name: str) -> None:
    records = archives.tfrecord_bytes([archives.example(image__encoded=archives.png())])
    (tmp_path / name).write_bytes(records)
    assert len(members(read_all(paths=str(tmp_path / name)))) == 1


@pytest.mark.parametrize("name", ["a-train.tfrecord-00000-of-00001", "a.tfrec"])
def test_a_folder_of_records_says_how_to_name_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "features.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"a folder of archives .* name them: .*/\*\.tfrec\*$"):
        read_all(paths=str(tmp_path))


def test_names_with_dots_do_not_mix_up_labels(tmp_path: Path) -> None:
    files = {f"v1.{i}.{kind}": data for i in range(3)
             for kind, data in (("png", archives.png(i)), ("cls", b"%d" % i))}  # fmt: skip
    path = shard(tmp_path, files)
    with pytest.raises(InputError, match=r"v1\.0\.cls and v1\.1\.cls are labels of one sample"):
        read_all(paths=path)
    for ignoring in ({"source": "none"}, {"unreadable": "ignore"}):
        rows = members(read_all(paths=path, labels=ignoring)).values()
        assert [row[1] for row in rows] == [None] * 3
    path = shard(tmp_path, {"1.left.png": archives.png(1), "1.left.json": b"3", "1.json": b"4"})
    assert [row[1] for row in members(read_all(paths=path)).values()] == ["4"]
