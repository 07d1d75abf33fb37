"""Aliases of pushed versions: they stay, survive each other, and are resolved like folders."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from components.bulk_inference.model_card import find_model
from components.model_push.management import (
    find_version,
    open_store,
    prunable,
    remove_alias,
    roll_back,
    set_alias,
)
from components.model_push.record import PushRecord
from components.model_push.serving_config import model_server_config
from components.model_push.versions import RECORD_FILE, VersionStore
from tests import emulators
from tests.components.test_model_push import model, push
from trainer.backbone_config import BackboneConfig
from trainer.backbone_weights import check_weights
from trainer.errors import InputError
from trainer.model_address import resolve_model
from trainer.optimization.warm_start import read_base
from trainer.storage import files

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "serving"


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VersionStore]:
    """An empty store, in a folder unless the test asks for a bucket."""
    if getattr(request, "param", "folder") == "folder":
        yield open_store(str(tmp_path / "pushed"))
        return
    if request.param == "s3":
        with emulators.s3() as s3:
            s3.create_bucket(Bucket="models")
            # The server keeps buckets as long as this process runs.
            yield open_store(f"s3://models/{tmp_path.name}")
        return
    with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
        client.create_bucket("models")
        yield open_store("gs://models/team/digits")


in_every_store = pytest.mark.parametrize(
    "store",
    ["folder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gcs", "s3"))],
    indirect=True,
)


@in_every_store
def test_an_alias_stays_with_its_version(store: VersionStore, tmp_path: Path) -> None:
    first = push(store, tmp_path, "1")
    record = files.read_bytes(f"{store.address}/{first}/{RECORD_FILE}")
    alias = set_alias(store, "champion", first, user="grace")
    assert (alias.version, alias.user, alias.replaced) == (first, "grace", None)
    second = push(store, tmp_path, "2")
    assert set_alias(store, "candidate", find_version(store, "latest").number).version == second
    back = roll_back(store)
    found = {name: alias.version for name, alias in store.aliases().items()}
    assert found == {"candidate": second, "champion": first}
    assert find_model(store.address) == back.path
    assert find_model(f"{store.address}@champion") == store.find(first).path
    assert find_model(f"{store.address}@candidate") == store.find(second).path
    assert find_model(f"{store.address}@latest") == back.path
    assert roll_back(store, to=find_version(store, "candidate").number).record.copy_of == second
    moved = set_alias(store, "champion", second)
    assert (moved.replaced, store.aliases()["champion"]) == (first, moved)
    assert remove_alias(store, "candidate").version == second
    assert list(store.aliases()) == ["champion"]
    assert files.read_bytes(f"{store.address}/{first}/{RECORD_FILE}") == record


@pytest.mark.parametrize(
    "name", ["7", "latest", "", "a/b", "../x", ".hidden", "a b", "x" * 65, "é", "a\n"]
)
def test_a_name_that_would_be_taken_for_something_else_is_refused(
    store: VersionStore, tmp_path: Path, name: str
) -> None:
    number = push(store, tmp_path)
    with pytest.raises(InputError, match="can't be an alias; give a letter") as caught:
        set_alias(store, name, number)
    assert "\n" not in str(caught.value)
    assert store.aliases() == {}


def test_what_an_alias_cannot_name_is_one_line(store: VersionStore, tmp_path: Path) -> None:
    number = push(store, tmp_path)
    with pytest.raises(InputError, match=f"there is no version 5; there is {number}"):
        set_alias(store, "champion", 5)
    with pytest.raises(InputError, match="there is no alias 'champion'; there is none"):
        remove_alias(store, "champion")
    for asked in (find_model, resolve_model, read_base):
        with pytest.raises(InputError, match="no alias 'champion', there is none; set it with"):
            asked(f"{store.address}@champion")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_model(f"{tmp_path}/nowhere@champion")
    with pytest.raises(InputError, match="no alias 'champion'"):
        find_version(store, "champion")


def test_an_alias_of_a_version_that_is_gone_is_one_line(
    store: VersionStore, tmp_path: Path
) -> None:
    first, second = push(store, tmp_path, "1"), push(store, tmp_path, "2")
    set_alias(store, "champion", first)
    # Someone deletes it by hand.
    (tmp_path / "pushed" / str(first)).rename(tmp_path / "gone")
    for asked in (find_model, resolve_model, read_base):
        with pytest.raises(
            InputError, match=f"names version {first}, which is not there; `vaeline"
        ):
            asked(f"{store.address}@champion")
    with pytest.raises(InputError, match=f"there is no version {first}"):
        model_server_config(store)
    assert set_alias(store, "champion", second).replaced == first
    (tmp_path / "pushed" / "aliases" / "champion").write_text("{")
    with pytest.raises(InputError, match="names no version's number; set it again"):
        find_model(f"{store.address}@champion")
    assert set_alias(store, "champion", second).replaced is None


@in_every_store
def test_a_version_with_an_alias_is_not_pruned(store: VersionStore, tmp_path: Path) -> None:
    first, second, third = (push(store, tmp_path, mark) for mark in ("1", "2", "3"))
    set_alias(store, "champion", first)
    assert [version.number for version in prunable(store, keep=1)] == [second]
    with pytest.raises(InputError, match=f"version {first} is champion, so it is not removed"):
        store.remove([first])
    remove_alias(store, "champion")
    store.remove(version.number for version in prunable(store, keep=1))
    assert [version.number for version in store.versions()] == [third]


@in_every_store
def test_aliases_that_are_set_at_once_lose_neither_each_other_nor_a_version(
    store: VersionStore, tmp_path: Path
) -> None:
    number = push(store, tmp_path)
    source = model(tmp_path / "model")

    def act(turn: int) -> int:
        mine = open_store(store.address)
        if turn % 4 == 0:
            return mine.publish(source, PushRecord(user="ada")).number
        # Every third thread sets the same alias.
        set_alias(mine, f"alias-{turn}" if turn % 4 != 1 else "shared", number, user=f"u{turn}")
        return number

    with ThreadPoolExecutor(8) as pool:
        numbers = set(pool.map(act, range(16)))
    expected = sorted(["shared", *(f"alias-{turn}" for turn in range(16) if turn % 4 > 1)])
    assert list(store.aliases()) == expected
    assert {alias.version for alias in store.aliases().values()} == {number}
    assert [version.number for version in store.complete()] == sorted(numbers)
    for version in store.complete():
        assert (version.record.version, version.record.user) == (version.number, "ada")


def test_those_who_can_read_the_folder_can_read_its_aliases(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "pushed"))
    number = push(store, tmp_path)
    (tmp_path / "pushed").chmod(0o755)
    before = os.umask(0o077)
    try:
        set_alias(store, "champion", number)
    finally:
        os.umask(before)
    folder = tmp_path / "pushed" / "aliases"
    assert folder.stat().st_mode & 0o005 == 0o005
    assert (folder / "champion").stat().st_mode & 0o004
    assert [path.name for path in folder.iterdir()] == ["champion"]


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path: Path) -> None:
    folder = model(tmp_path / "models@champion")
    assert find_model(str(folder)) == str(folder)
    with pytest.raises(InputError, match="no such folder"):
        find_model(str(tmp_path / "me@host" / "models"))


def test_a_backbone_starts_from_an_alias(store: VersionStore, tmp_path: Path) -> None:
    set_alias(store, "champion", push(store, tmp_path))
    check_weights(BackboneConfig(weights=f"{store.address}@champion"))
    with pytest.raises(InputError, match=r"model\.backbone\.weights: .*no alias 'other'"):
        check_weights(BackboneConfig(weights=f"{store.address}@other"))


def parsed(text: str) -> model_server_config_pb2.ModelServerConfig:
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def test_without_aliases_the_serving_config_is_the_one_in_configs(
    store: VersionStore, tmp_path: Path
) -> None:
    push(store, tmp_path)
    text = model_server_config(store, base_path="/models/vaeline")
    assert parsed(text) == parsed((CONFIGS / "models.config").read_text(encoding="utf-8"))


def test_the_serving_config_labels_versions_and_serves_them_and_the_newest(
    store: VersionStore, tmp_path: Path
) -> None:
    first, second, third = (push(store, tmp_path, mark) for mark in ("1", "2", "3"))
    set_alias(store, "champion", second)
    set_alias(store, "stable", second)
    (entry,) = parsed(model_server_config(store, name="digits")).model_config_list.config
    assert (entry.name, entry.base_path) == ("digits", store.address)
    assert dict(entry.version_labels) == {"champion": second, "stable": second}
    assert list(entry.model_version_policy.specific.versions) == [second, third]
    set_alias(store, "stable", first)
    (entry,) = parsed(model_server_config(store)).model_config_list.config
    assert list(entry.model_version_policy.specific.versions) == [first, second, third]


def test_the_file_of_an_alias_tells_who_set_it(store: VersionStore, tmp_path: Path) -> None:
    number = push(store, tmp_path)
    set_alias(store, "champion", number, user="grace")
    content = json.loads((tmp_path / "pushed" / "aliases" / "champion").read_bytes())
    assert content.keys() == {"name", "version", "set_at", "user", "host", "replaced"}
    assert (content["name"], content["version"], content["user"]) == ("champion", number, "grace")
