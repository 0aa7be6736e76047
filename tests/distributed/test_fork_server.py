"""Workers of a command are forked from a process that has torch, and nothing is lost with that one."""

from __future__ import annotations

import atexit
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from forked import Forked
from jobs import fingerprint
from stages import stages_of

from ffdist.bench.victims import descendants, left_of, name_of
from ffdist.cli import main
from ffdist.device import may_need_driver
from ffdist.errors import StageError
from ffdist.exiting import begin_own_program, end_process
from ffdist.payload import Payload
from ffdist.process_stat import is_alive, parent_of
from ffdist.runtime.child import FORK_SERVER
from ffdist.runtime.fork_server import forget_inherited, fork_server, put_in_place, start_fork_server
from ffdist.runtime.worker_process import start_worker
from ffdist.runtime.world import World
from ffdist.snapshot import committed

pytestmark = pytest.mark.distributed

TRAIN = ["train", "digits", "--stages", "2", "--seed", "7", "--epochs", "6", "--precision", "fp32", "--threads", "1"]
TRAIN += ["--model-args", "widths=8,12,16"]
OPTIONS = ["--snapshot-every", "4", "--max-restarts", "5"]


@contextmanager
def training(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, stopped before it has learned anything for good."""
    command = [sys.executable, "-m", "ffdist", *TRAIN, *OPTIONS, "--out", str(run)]
    with Forked(command, stdout=subprocess.DEVNULL) as launcher:
        try:
            yield launcher
        finally:
            launcher.kill()


T = TypeVar("T")


def soon(true: Callable[[], T]) -> T:
    """The first of its values that counts as true."""
    deadline = time.monotonic() + 100
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def server_of(launcher: int) -> int:
    return next(each.pid for each in descendants(launcher) if name_of(each.pid) == FORK_SERVER)


def test_whoever_is_killed_the_run_ends_with_the_bits_of_threads(tmp_path: Path) -> None:
    main([*TRAIN, "--launcher", "threads", "--out", str(tmp_path / "threads"), "--quiet"])
    run = tmp_path / "run"
    with training(run) as launcher:
        soon(lambda: committed(run))
        server = server_of(launcher.pid)
        (first,) = stages_of(launcher.pid, 1)
        assert parent_of(first) == server
        os.kill(first, signal.SIGKILL)
        (second,) = soon(lambda: [pid for pid in stages_of(launcher.pid, 1) if pid != first])
        assert parent_of(second) == server, "an attempt costs no interpreter"
        os.kill(server, signal.SIGSTOP)  # it is told to go on when it is needed
        os.kill(second, signal.SIGKILL)
        (third,) = soon(lambda: [pid for pid in stages_of(launcher.pid, 1) if pid not in (first, second)])
        os.kill(server, signal.SIGKILL)
        (fourth,) = soon(lambda: [pid for pid in stages_of(launcher.pid, 1) if pid != third])
        assert parent_of(fourth) == launcher.pid, "an interpreter of its own, as there is no server any more"
        assert launcher.wait(100) == 0
    reasons = (run / "restarts.log").read_text().splitlines()
    assert [f"as the fork server (process {server}) has died" in each for each in reasons] == [False, False, True]
    assert fingerprint(run) == fingerprint(tmp_path / "threads")


def test_workers_end_with_their_launcher(tmp_path: Path) -> None:
    with training(tmp_path / "run") as launcher:
        soon(lambda: committed(tmp_path / "run"))
        all_of = set(descendants(launcher.pid))
        assert {name_of(each.pid) for each in all_of} >= {FORK_SERVER, "worker-0", "worker-1"}
        launcher.kill()
        assert not left_of(all_of, 5.0)


def passes_in_child(check: Callable[[], object]) -> bool:
    """Whether a check passes in a process of its own, which it may spoil."""
    if (child := os.fork()) == 0:
        try:
            check()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_the_program_hears_of_its_workers_ends_where_whoever_has_started_it_ignores_them() -> None:
    def check() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        begin_own_program()
        if (child := os.fork()) == 0:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3

    assert passes_in_child(check)


def test_a_server_is_of_the_process_that_has_started_it() -> None:
    def check() -> None:
        assert fork_server() is None

    assert fork_server()
    assert passes_in_child(check)


BUSY = 0.6
"""Seconds; to fork, and the like, takes a tenth of it."""


def busy_for(seconds: float) -> list[str]:
    while time.process_time() < seconds:
        pass
    return sys.path


class Busy:
    """A list of paths that takes a worker long to read."""

    def __reduce__(self) -> tuple[Callable[[float], list[str]], tuple[float]]:
        return busy_for, (BUSY,)


def test_the_time_of_workers_is_their_commands() -> None:
    """What a shell's `time`, and whoever else waits for the command, is told of."""

    def children() -> float:
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    def command() -> None:
        atexit._clear()
        start_fork_server("cpu")
        server = fork_server()
        assert server
        here, there = Pipe()
        worker = server.start(there.fileno(), 2, [])
        there.close()
        here.send(Busy())
        here.close()
        worker.wait(60)
        atexit._run_exitfuncs()

    before = children()
    assert passes_in_child(command)
    assert children() - before >= BUSY


def test_unseeded_numbers_of_two_workers_differ() -> None:
    def draw() -> None:
        forget_inherited()
        os.write(write_end, json.dumps([random.random(), np.random.rand(), torch.rand(()).item()]).encode())

    reader, write_end = os.pipe()
    drawn = list[list[float]]()
    for _ in range(2):
        assert passes_in_child(draw)
        drawn.append(json.loads(os.read(reader, 1000)))
    os.close(reader)
    os.close(write_end)
    assert all(mine != other for mine, other in zip(*drawn, strict=True)), drawn


def test_what_the_launcher_has_not_yet_written_is_not_written_by_a_worker(tmp_path: Path) -> None:
    def check() -> None:
        atexit._clear()  # this process's are not its child's
        forget_inherited()
        own = (tmp_path / "own").open("w")
        own.write("too")
        end_process(0)

    with (tmp_path / "launcher's").open("w") as file:
        file.write("once")
        assert passes_in_child(check)
    assert [(tmp_path / name).read_text() for name in ("launcher's", "own")] == ["once", "too"]


def test_descriptors_get_their_places_where_few_are_allowed_and_stdin_was_closed() -> None:
    def check() -> None:
        os.closerange(3, 1 << 16)
        os.close(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        files = [os.memfd_create(name) for name in ("line", "stderr", "shared")]  # the first one is 0
        expected = [os.fstat(each).st_ino for each in files]
        line = put_in_place(files, [7])
        assert [os.fstat(each).st_ino for each in (line, 2, 7)] == expected
        assert os.path.samestat(os.fstat(0), os.stat(os.devnull))
        assert len(os.listdir("/proc/self/fd")) == 6, "none is left over: 0, 1, 2, line, 7, and the listing's own"

    assert passes_in_child(check)


def test_where_the_system_has_no_room_for_a_process_an_error_says_so_and_the_server_lives() -> None:
    def start() -> None:
        with pytest.raises(StageError, match=r"worker 3 cannot be started(.|\n)*got: .*unavailable(.|\n)*ulimit -u"):
            start_worker(World(3, 4, 3, 0), "", (), Payload(b"", None))

    def check() -> None:
        if os.getuid() == 0:  # whom nothing limits
            os.setuid(65534)
        start_fork_server("cpu")
        server = fork_server()
        assert server
        resource.prlimit(server.pid, resource.RLIMIT_NPROC, (0, 0))
        start()
        assert fork_server() is server
        server.end()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        start_fork_server("cpu")
        assert fork_server() is None
        start()

    assert passes_in_child(check)


def test_a_server_that_heard_half_of_an_order_ends_and_waits_for_no_more() -> None:
    def check() -> None:
        start_fork_server("cpu")
        server = fork_server()
        assert server
        pid, odd = server.pid, "no descriptor"
        with pytest.raises(TypeError):  # where a signal's handler raises Interrupted: its words are sent by now
            server.start(0, 2, [odd])  # pyright: ignore[reportArgumentType]
        assert not is_alive(pid)
        assert fork_server() is None

    assert passes_in_child(check)


def test_nothing_is_forked_where_a_driver_may_be_in_use() -> None:
    assert not may_need_driver("cpu")
    assert may_need_driver("cuda")
    assert may_need_driver("cuda:0")
