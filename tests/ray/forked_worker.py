"""In the place of Ray's `setup_worker`: has a worker of a node forked from a process that has torch, for which an
interpreter of its own takes seconds. One with a runtime environment gets an interpreter all the same.

Run by a raylet, it hands its arguments, environment, folder and streams to `serve_workers`, and ends as the worker
does. A raylet knows a worker by its startup token, and takes the process number that the worker itself says.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from multiprocessing.reduction import DupFd

ADDRESS = "FFDIST_TESTS_RAY_WORKERS"
"""The environment variable with the server's address. Nodes pass it on to their workers."""
MODULES = ("colorama", "filelock", "google.protobuf.json_format", "jsonschema", "msgpack", "psutil", "requests", "yaml")
"""What Ray imports, beside the modules of `forked`. Ray itself reads the environment as it is imported."""
CONTEXT = "--serialized-runtime-env-context="


def main(args: list[str]) -> None:
    from_ray = [arg for arg in args if not arg.startswith((CONTEXT, "--language="))]
    context = json.loads(next((arg for arg in args if arg.startswith(CONTEXT)), CONTEXT + "{}").removeprefix(CONTEXT))
    special = {
        name: value for name, value in context.items() if value and (name, value) != ("py_executable", sys.executable)
    }
    if special or "--language=PYTHON" not in args:
        from ray._private.workers import setup_worker

        os.execv(sys.executable, [sys.executable, setup_worker.__file__, *args])
    order = json.dumps({"program": from_ray, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[ADDRESS])
        socket.send_fds(line, [len(order).to_bytes(4, "big")], [0, 1, 2])
        line.sendall(order)
        status = line.recv(4)
    os._exit(int.from_bytes(status, "big") if status else 1)


def serve_workers(door: DupFd, environment: dict[str, str]) -> None:
    """Have workers forked, until the process that has started this one is gone."""
    from ffdist.exiting import end_with_starter

    end_with_starter()
    os.environ.clear()
    os.environ.update(environment)
    for name in MODULES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a guardian has ended
    with socket.socket(fileno=door.detach()) as listener:
        while True:
            line, _ = listener.accept()
            with line:
                if os.fork() == 0:
                    listener.close()
                    guard_worker(line)


def guard_worker(line: socket.socket) -> NoReturn:
    """Fork the worker, and say how it has ended. It is killed where its launcher is gone."""
    from forked import become

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(line, 4, 3)
    with line.makefile("rb") as file:
        order = json.loads(file.read(int.from_bytes(length, "big")))
    pid = os.fork()
    if pid == 0:
        line.close()
        become(order["program"], streams, order["environment"], order["folder"], False)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, line], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        line.sendall((status if status >= 0 else 128 - status).to_bytes(4, "big"))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
