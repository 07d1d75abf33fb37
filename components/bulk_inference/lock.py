"""One job at a time in an output folder: a lock that a killed job leaves behind harmlessly.

`job.py` holds it while it runs. On disk the operating system gives it up with the process; in
Cloud Storage the holder rewrites an object, and one that stands still is taken over.
"""

import fcntl
import io
import json
import logging
import os
import posixpath
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from components.bulk_inference import storage
from components.image_sources.config import StorageConfig
from components.image_sources.errors import InputError

_LOG = logging.getLogger(__name__)

LOCK: Final = "_lock"
_BEAT_SECS: Final = 15.0
_STILL_SECS: Final = 50.0
"""An object that nobody rewrote for so long belongs to a job that is gone."""
_CLOUD: Final = StorageConfig()


@contextmanager
def held(output: str) -> Iterator[None]:
    """Keeps other jobs out of an output while the block runs.

    Args:
        output: The job's folder, writable.

    Raises:
        InputError: if another job holds it; the message says who.
    """
    path = posixpath.join(output, LOCK)
    with _held_object(path) if storage.is_remote(output) else _held_file(path):
        yield


@contextmanager
def _held_file(path: str) -> Iterator[None]:
    # Opened for appending: whoever is refused must not empty it.
    with Path(path).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(path, file.read()) from None
        except OSError as error:
            # Some network file systems know no locks; a job there is as safe as its user.
            _LOG.warning("%s: no locks on this file system: %s", path, error)
        file.truncate(0)
        file.write(_holder())
        file.flush()
        yield


@contextmanager
def _held_object(path: str) -> Iterator[None]:
    # Once for all beats, so that the holder knows itself again.
    holder = _holder().encode()
    generation = _take(path, holder)
    done = threading.Event()
    lost: list[Exception] = []

    def beat() -> None:
        nonlocal generation
        while not done.wait(_BEAT_SECS):
            try:
                generation = _renew(path, generation, holder)
            except FileExistsError as error:
                lost.append(error)
                return
            except (InputError, OSError) as error:
                _LOG.warning("%s: not renewed: %s", path, error)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
        if lost:
            raise storage.OutputError(
                f"{posixpath.dirname(path)}: another job took this output over while this one"
                " stood still; wait for it, then start again"
            )
    finally:
        done.set()
        thread.join()
        if not lost:
            storage.remove(path)


def _take(path: str, holder: bytes) -> int:
    """Writes the object where there is none, or over one whose holder is gone."""
    if not storage.exists(path):
        with suppress(FileExistsError):
            return _write(path, 0, holder)
    try:
        content = storage.read_bytes(path).decode()
        before = _generation(path)
        if not _is_gone(content):
            deadline = time.monotonic() + _STILL_SECS
            while time.monotonic() < deadline:
                time.sleep(min(_BEAT_SECS / 5, 1.0))
                if _generation(path) != before:
                    raise _refusal(path, content)
        return _write(path, before, holder)
    except FileNotFoundError:
        return _take(path, holder)
    except FileExistsError:
        raise _refusal(path, content) from None


def _renew(path: str, generation: int, holder: bytes) -> int:
    try:
        return _write(path, generation, holder)
    except FileExistsError:
        # Ours where an answer was lost and the request made again.
        if storage.read_bytes(path) != holder:
            raise
        return _generation(path)


def _generation(path: str) -> int:
    from components.image_sources import files

    return int(files.facts(path, _CLOUD).version)


def _write(path: str, generation: int, holder: bytes) -> int:
    from components.image_sources import cloud_writes

    return cloud_writes.write_object(path, io.BytesIO(holder), _CLOUD, generation)


def _holder() -> str:
    facts = {"host": socket.gethostname(), "process": os.getpid(), "job": uuid.uuid4().hex}
    return json.dumps(facts)


def _read(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(content: str) -> bool:
    """Tells whether the holder was a process of this machine that no longer runs."""
    holder = _read(content)
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("process"), int):
        return False
    return not Path(f"/proc/{holder['process']}").exists()


def _refusal(path: str, content: str) -> InputError:
    holder = _read(content)
    who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
    return InputError(
        f"{posixpath.dirname(path)}: another job writes there, {who}; wait for it, stop it, or"
        " name another output"
    )
