"""Standard output that nobody reads, that is full or closed, that is narrow or knows only ASCII."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.model_push.management import open_store
from tests.components.test_model_push import push
from tests.forked import vaeline
from tests.limits import HANG_SECS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pushed versions."""
    folder = tmp_path_factory.mktemp("models")
    store = open_store(str(folder / "pushed"))
    push(store, folder, "1")
    push(store, folder, "2")
    return folder / "pushed"


def run(*arguments: str, stdout: int = subprocess.PIPE, **variables: str) -> tuple[int, str, str]:
    """Runs the command and returns its exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        timeout=HANG_SECS,
        check=False,
    )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


COMMANDS = {
    "help": ("--help",),
    "help of a command": ("predict", "--help"),
    "version": ("--version",),
    "table": ("models", "list", "PUSHED"),
    "json": ("models", "list", "PUSHED", "--json"),
    "line": ("models", "prune", "PUSHED", "--keep", "1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_went_away_ends_nothing_with_a_traceback(command: str, pushed: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [part.replace("PUSHED", str(pushed)) for part in COMMANDS[command]]
    try:
        code, _, errors = run(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert code == 141
    # With --json the table goes to standard error.
    assert errors.startswith("models in") if command == "json" else not errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command: str, pushed: Path) -> None:
    arguments = [part.replace("PUSHED", str(pushed)) for part in COMMANDS[command]]
    with open("/dev/full", "wb") as full:
        code, _, errors = run(*arguments, stdout=full.fileno())
    assert code == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line == "error: standard output: No space left on device; what follows is not shown"
    assert "Traceback" not in errors


def test_an_own_exit_code_counts_more_than_the_readers(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert run("models", "list", stdout=writing)[0] == 2
    assert run("models", "list", str(tmp_path), stdout=writing)[0] == 1
    os.close(writing)


def test_a_closed_output_is_one_line(pushed: Path) -> None:
    for closed, code in ((">&-", 1), ("2>&-", 0), ("<&-", 0)):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "pipeline.cli",
             "models", "list", str(pushed)],
            capture_output=True, cwd=ROOT, timeout=HANG_SECS, check=False, text=True,
        )  # fmt: skip
        assert done.returncode == code, closed
        if code:
            assert done.stderr == (
                "error: standard output: Bad file descriptor; what follows is not shown\n"
            )
        else:
            assert "models in" in done.stdout
            assert not done.stderr


def test_work_goes_on_when_nobody_reads(pushed: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "pushed"))
    for name in "123":
        push(store, tmp_path, name)
    reading, writing = os.pipe()
    os.close(reading)
    code, _, _ = run("models", "prune", store.address, "--keep", "1", "--yes", stdout=writing)
    os.close(writing)
    assert code == 141
    assert len(store.versions()) == 1


@pytest.mark.parametrize("columns", ["20", "1", "0", "40", "500", "-3", "wide"])
def test_a_table_is_readable_at_any_width(columns: str, pushed: Path) -> None:
    done = vaeline("models", "list", str(pushed), environment={"COLUMNS": columns})
    assert (done.returncode, done.stderr) == (0, "")
    for version in open_store(str(pushed)).versions():
        for part in (str(version.number), version.record.pushed_at, "digits.zip"):
            assert part in done.stdout


def test_a_narrow_list_has_a_line_for_each_cell(pushed: Path) -> None:
    text = vaeline("models", "list", str(pushed), environment={"COLUMNS": "20"}).stdout
    newest = open_store(str(pushed)).versions()[-1]
    lines = text.splitlines()
    assert lines[0] == f"models in {pushed}"
    assert f"version: {newest.number}" in lines
    assert "served" in lines
    assert f"pushed: {newest.record.pushed_at}" in lines
    # Nothing is drawn that a narrow terminal would break.
    assert not set(text) & set("│┃━")


@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "dumb"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)  # fmt: skip
def test_names_of_any_characters_are_shown_in_any_encoding(
    variables: dict[str, str], tmp_path: Path
) -> None:
    if variables.get("PYTHONUTF8") == "0" and not sys.prefix.isascii():
        pytest.skip(f"in that encoding PyYAML cannot be imported from {sys.prefix}")
    folder = tmp_path / "Größe 大"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"text")
    arguments = [*map(os.fsencode, folder.iterdir()), os.fsencode(folder / "none.png")]
    for options in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "predict", *arguments,
             "--server", "http://127.0.0.1:1", *options],
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "30", **variables},
            timeout=HANG_SECS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert b"Traceback" not in done.stdout + done.stderr
        assert b"No such file" in done.stdout + done.stderr
        if options:
            assert json.loads(done.stdout)["failed"]
