"""Who can read a pushed version: other accounts, a group, or only the one that pushed."""

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.model_push.config import PushConfig
from components.model_push.management import open_store, roll_back
from tests.components.test_model_push import push
from trainer.errors import InputError

GROUP = "www-data"
NOBODY = 65534
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not any(entry.gr_name == GROUP for entry in grp.getgrall()),
    reason="only root can read as another account",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can enter, under umask 077."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    before = os.umask(0o077)
    yield made
    os.umask(before)
    shutil.rmtree(made)


def can_read(path: str, group: int = NOBODY) -> bool:
    """Whether an account without rights of its own, in one group, can read every file."""
    done = subprocess.run(
        ["sh", "-c", 'ls "$0" && find "$0/../latest" "$0" -type f -exec cat {} +', path],
        user=NOBODY,
        group=group,
        extra_groups=[],
        capture_output=True,
        cwd="/",
        check=False,
    )
    return done.returncode == 0


@as_root
def test_those_who_can_read_the_folder_can_read_its_versions(folder: Path) -> None:
    pushed = folder / "pushed"
    pushed.mkdir()
    pushed.chmod(0o755)
    store = open_store(str(pushed))
    push(store, folder, "1")
    push(store, folder, "2")
    made = [*store.versions(), roll_back(store)]
    for version in made:
        assert can_read(version.path)
        assert not store.readers_note(version)
    assert (pushed / "latest").stat().st_mode & 0o777 == 0o644
    assert (Path(made[0].path) / "variables").stat().st_mode & 0o777 == 0o755


@as_root
@pytest.mark.parametrize("mode", [0o750, 0o2750])
def test_the_group_of_the_folder_can_read_its_versions(folder: Path, mode: int) -> None:
    pushed, group = folder / "pushed", grp.getgrnam(GROUP).gr_gid
    pushed.mkdir()
    os.chown(pushed, -1, group)
    pushed.chmod(mode)
    store = open_store(str(pushed))
    push(store, folder)
    (version,) = store.versions()
    assert can_read(version.path, group)
    assert not can_read(version.path)
    assert not store.readers_note(version)


@as_root
def test_the_configured_group_can_read_the_versions(folder: Path) -> None:
    group = grp.getgrnam(GROUP).gr_gid
    store = open_store(str(folder / "pushed"), GROUP)
    push(store, folder, "1")
    push(store, folder, "2")
    # The command of a rollback knows no configuration.
    made = [*store.versions(), roll_back(open_store(store.address))]
    for version in made:
        assert can_read(version.path, group)
        assert not can_read(version.path)
        assert not store.readers_note(version)
    folder.chmod(0o700)
    assert store.readers_note(made[0]) == (
        f"members of {GROUP} can't enter {folder}, so they can't read {made[0].path}"
    )


def test_a_version_that_only_its_account_can_read_is_said(folder: Path) -> None:
    store = open_store(str(folder / "pushed"))
    push(store, folder)
    (version,) = store.versions()
    assert Path(version.path).stat().st_mode & 0o077 == 0
    note = store.readers_note(version)
    assert f"can read {version.path}" in note
    assert "push.group" in note
    assert "\n" not in note
    os.umask(0o022)
    second = open_store(str(folder / "others"))
    push(second, folder)
    assert not second.readers_note(second.versions()[0])


def test_a_group_that_cannot_be_used_stops_the_push(folder: Path) -> None:
    store = open_store(str(folder / "pushed"), "no such group")
    with pytest.raises(InputError, match=r"push\.group: there is no group 'no such group'"):
        push(store, folder)
    assert not store.versions()
    with pytest.raises(ValueError, match=r"push\.group: gs://b/m knows no groups"):
        PushConfig(directory="gs://b/m", group="serving")


@as_root
def test_a_group_without_the_account_stops_the_push(folder: Path) -> None:
    code = (
        "import os\n"
        "from components.model_push.readers import group_id\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"group_id({GROUP!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert f"no member of '{GROUP}'" in done.stderr.splitlines()[-1]
