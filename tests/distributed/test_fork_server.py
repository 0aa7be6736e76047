"""Workers of a command are forked from a process that has torch, and nothing is lost with that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from jobs import fingerprint
from stages import stages_of

from ffdist.bench.victims import descendants, left_of, name_of
from ffdist.cli import main
from ffdist.device import may_need_driver
from ffdist.runtime.child import FORK_SERVER
from ffdist.runtime.fork_server import fork_server
from ffdist.runtime.process_stat import parent_of
from ffdist.snapshot import committed

pytestmark = pytest.mark.distributed

TRAIN = ["train", "digits", "--stages", "2", "--seed", "7", "--epochs", "6", "--precision", "fp32", "--threads", "1"]
OPTIONS = ["--snapshot-every", "4", "--max-restarts", "5"]


@contextmanager
def training(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, stopped before it has learned anything for good."""
    command = [sys.executable, "-m", "ffdist", *TRAIN, *OPTIONS, "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as launcher:
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
    assert len((run / "restarts.log").read_text().splitlines()) == 3
    assert fingerprint(run) == fingerprint(tmp_path / "threads")


def test_workers_end_with_their_launcher(tmp_path: Path) -> None:
    with training(tmp_path / "run") as launcher:
        soon(lambda: committed(tmp_path / "run"))
        all_of = set(descendants(launcher.pid))
        assert {name_of(each.pid) for each in all_of} >= {FORK_SERVER, "worker-0", "worker-1"}
        launcher.kill()
        assert not left_of(all_of, 5.0)


def test_a_server_is_of_the_process_that_has_started_it() -> None:
    assert fork_server()
    if (child := os.fork()) == 0:
        os._exit(0 if fork_server() is None else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_forked_where_a_driver_may_be_in_use() -> None:
    assert not may_need_driver("cpu")
    assert may_need_driver("cuda")
    assert may_need_driver("cuda:0")
