"""A process that forks workers: they have torch from the beginning, which takes an interpreter of their own seconds.

`ffdist train` forks it of itself when it has imported what a worker needs, before it has computed, opened or started
anything, so that there is nothing to inherit but modules. A call from Python has no such moment: its process is the
user's. Nor may a process fork that uses a GPU's driver. There, and where the server is lost, workers are interpreters.

The server is the workers' parent: it ends with the launcher, and they with it. It forks, and says how a worker has
ended, when it is asked; what the launcher sends to a worker, and gets from it, does not go through it.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from ffdist.device import may_need_driver
from ffdist.exiting import end_with_parent, leave_inherited, name_process
from ffdist.loading import import_seconds
from ffdist.runtime.child import FORK_SERVER
from ffdist.runtime.interrupts import signals_blocked

ANSWER = 10.0
"""Seconds within which the server answers; a stopped one is told to go on."""
MAX_DESCRIPTORS = 16

_server: ForkServer | None = None


def start_fork_server(device: str) -> None:
    """Fork the server, where that is sound. device: as `compute.device`.

    To be called by a program of ffdist's own alone, before it has begun anything.
    """
    if (
        fork_server() is None
        and sys.platform == "linux"
        and threading.active_count() == 1
        and not may_need_driver(device)
    ):
        with suppress(OSError):  # a system without pidfd (Linux before 5.3), or with no room for a process
            os.close(os.pidfd_open(os.getpid()))
            use_fork_server(ForkServer.forked())
            atexit.register(end_fork_server)


def end_fork_server() -> None:
    """End this process's server, if it has one. Who is waited for passes on the time that its own children took: the
    workers' is the command's then, in a shell's `time` as in a batch system's account."""
    if server := fork_server():
        server.end()


def use_fork_server(server: ForkServer) -> None:
    """Have this process's workers forked by this one from now on."""
    global _server
    _server = server


def fork_server() -> ForkServer | None:
    """The server of this process, where it has one that lives."""
    return _server if _server and _server.pid and _server.owner == os.getpid() else None


class ServerLostError(Exception):
    """The server has ended, and its workers with it."""


class ForkServer:
    """The launcher's end of it."""

    def __init__(self, pid: int, here: socket.socket) -> None:
        """pid: of a child of this process that is in `serve`, with the other end of this socket."""
        self.pid = pid
        """0 when it is lost."""
        self.orders = 0
        """The number of the last order."""
        self.owner = os.getpid()
        self.socket = here
        self.line = Connection(os.dup(here.fileno()))

    @classmethod
    def forked(cls) -> ForkServer:
        """The server, forked from this process as it is."""
        here, there = socket.socketpair()
        launcher = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with there:
            try:
                # for ever in the server: what is sent to all processes is the launcher's to answer
                with signals_blocked():
                    if (pid := os.fork()) == 0:
                        here.close()
                        serve(there, launcher)
            except OSError:
                here.close()
                raise
        return cls(pid, here)

    def start(self, line: int, stderr: int, descriptors: Sequence[int]) -> ForkedProcess:
        """Fork a worker. line, stderr: its ends of these. descriptors: those that it has under the same numbers.

        Raises ServerLostError; OSError where the system has no room for a process.
        """
        order: dict[str, Any] = {"order": "start", "numbers": list(descriptors), "environment": dict(os.environ)}
        with suppress(OSError):  # it was removed
            order["folder"] = os.getcwd()
        answer = self.ask(order, [line, stderr, *descriptors])
        if number := answer.get("errno"):
            raise OSError(number, os.strerror(number))
        return ForkedProcess(self, int(answer["pid"]))

    def ask(self, order: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """The answer to an order. Raises ServerLostError."""
        if not self.pid:
            raise ServerLostError
        self.orders += 1
        try:
            os.kill(self.pid, signal.SIGCONT)
            self.line.send_bytes(json.dumps({**order, "number": self.orders}).encode())
            if descriptors:
                socket.send_fds(self.socket, [b"."], list(descriptors))
            while self.line.poll(ANSWER):
                answer = json.loads(self.line.recv_bytes())
                if answer["number"] == self.orders:  # else of one that a signal has kept from being read
                    return answer
        except (EOFError, OSError):
            pass
        except BaseException:
            # a signal's handler, which comes though the signals are blocked here where another thread has heard of
            # them: the server may wait for the rest of the order, or have begun a worker that nobody knows of
            if descriptors:
                self.end()
            raise
        self.end()
        raise ServerLostError

    def end(self) -> None:
        """End it, and all workers that are left."""
        if self.pid:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self.pid = 0
            self.line.close()
            self.socket.close()


class ForkedProcess:
    """A worker that the server has forked, with what of `subprocess.Popen` its launcher uses."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.server = server
        self.server_pid = server.pid
        self.pid = pid
        self.returncode: int | None = None
        self.lost_with: int | None = None
        """The number of the fork server where that has ended first, and nobody knows how this process has."""
        # the server has not asked for its end yet, so the number is still its own
        self._ended = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """The status as of `Popen`. Raises TimeoutExpired."""
        if self.returncode is None:
            ended, _, _ = select.select([self._ended], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            try:
                self.returncode = int(self.server.ask({"order": "status", "pid": self.pid})["status"])
            except ServerLostError:  # nobody knows; the kernel has killed it with the server, if not something before
                self.returncode, self.lost_with = -signal.SIGKILL, self.server_pid
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it, if the process is still there."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ended, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve(there: socket.socket, launcher: int) -> NoReturn:
    """The server's life: an order after the other, until the launcher is gone."""
    try:
        end_with_parent(launcher)
        name_process(FORK_SERVER)
        line = Connection(os.dup(there.fileno()))
        while True:
            order = json.loads(line.recv_bytes())
            if order["order"] == "start":
                _, descriptors, _, _ = socket.recv_fds(there, 1, MAX_DESCRIPTORS)
                try:
                    pid = os.fork()
                    answer = {"pid": pid}
                except OSError as error:  # the other workers live on until the launcher ends them
                    pid = None
                    answer = {"errno": error.errno}
                if pid == 0:
                    line.close()
                    there.close()
                    become_worker(order, descriptors)
                for each in descriptors:
                    os.close(each)
            else:
                answer = {"status": os.waitstatus_to_exitcode(os.waitpid(order["pid"], 0)[1])}
            line.send_bytes(json.dumps({**answer, "number": order["number"]}).encode())
    except (EOFError, OSError):  # the launcher has gone
        pass
    except BaseException:  # said here: what is above on the stack is the launcher's, and must not go on
        traceback.print_exc()
    os._exit(1)


def become_worker(order: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """The forked process's way to what an interpreter of its own begins with: `child.START`."""
    try:
        line = put_in_place(descriptors, order["numbers"])
        os.environ.clear()
        os.environ.update(order["environment"])
        with suppress(OSError, KeyError):
            os.chdir(order["folder"])
        forget_inherited()
        connection = Connection(line)
        sys.path[:] = connection.recv()
        from ffdist.runtime.child import main

        main(connection)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:  # said here: what is above on the stack is the launcher's, and must not go on
        traceback.print_exc()
    os._exit(1)


def put_in_place(descriptors: Sequence[int], numbers: Sequence[int]) -> int:
    """Give the descriptors of stderr and of what is shared the numbers that they are known by; return the line's."""
    import fcntl

    # none may be overwritten that is still to be moved
    above = max([2, *numbers]) + 1
    line, stderr, *shared = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in descriptors)
    for each in descriptors:
        os.close(each)
    # as high, or it could be 0 itself, where the command was started without stdin
    opened = os.open(os.devnull, os.O_RDONLY)
    nothing = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, above)
    os.close(opened)
    for each, number in ((nothing, 0), (stderr, 2), *zip(shared, numbers, strict=True)):
        os.dup2(each, number, inheritable=number <= 2)
        os.close(each)
    return line


def forget_inherited() -> None:
    """Forget what an interpreter of its own would not have: the launcher's state of random numbers, and of time; and
    its open files."""
    import numpy as np
    import torch

    np.random.seed()
    torch.default_generator.seed()
    import_seconds(forget=True)
    leave_inherited()
