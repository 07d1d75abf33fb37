"""The process that `tests/forked.py` starts and asks for forks: `python -m tests.fork_server FD`.

FD is the number of a listening socket. The process ends when no process of pytest is connected.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from tests import forked_imports  # noqa: F401
from tests.forked import LONGEST_REQUEST


def main() -> None:
    """Forks for every request, until nobody is left to send any."""
    # What was forked and has ended goes by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=int(sys.argv[1]))
    clients = [listening.accept()[0]]
    while clients:
        for ready in select.select([listening, *clients], [], [])[0]:
            if ready is listening:
                clients.append(listening.accept()[0])
                continue
            message, places, _, _ = socket.recv_fds(ready, LONGEST_REQUEST, 3)
            if not message:
                ready.close()
                clients.remove(ready)
            elif os.fork() == 0:
                for connection in (listening, *clients):
                    connection.close()
                _watch(json.loads(message), places)
            for place in places:
                os.close(place)


def _watch(request: dict[str, Any], places: Sequence[int]) -> NoReturn:
    """Forks the module and tells its process id and, at last, its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answers = socket.socket(fileno=places[2])
    child = os.fork()
    if child == 0:
        answers.close()
        _run(request, *places[:2])
    for each in places[:2]:
        os.close(each)
    # Nobody may wait for the answers any more.
    with contextlib.suppress(OSError):
        answers.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        answers.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict[str, Any], output: int, errors: int) -> NoReturn:
    """Becomes the program that is asked for."""
    code = 1
    try:
        if request["new_session"]:
            os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        # pytest has put others in their place.
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", 1, encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        module = request["module"]
        sys.argv = [module, *request["arguments"]]
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
