"""A Ray of this host alone, for one run: started, watched and ended."""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import services, worker

from ffdist.errors import ConfigError, Interrupted, StageLostError, setting
from ffdist.process_stat import parent_of
from ffdist.runtime.interrupts import signals_restored

POLL_SECONDS = 0.005
"""Seconds between two looks at a signal's handler."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
"""How a driver joins a Ray."""
NEEDED = ("gcs_server", "raylet")
"""Processes of a Ray without which nothing goes on."""


@contextmanager
def own_ray(cpus: int) -> Iterator[None]:
    """A context within a Ray of this host alone. Raises ConfigError where it cannot start."""
    take_own_token()
    with starting(), signals_kept(), session_of_its_own():
        context: Any = ray.init("local", num_cpus=cpus, include_dashboard=False, **QUIET)
    with removed_afterwards(Path(context.address_info["session_dir"])):
        try:
            yield
        finally:
            if dead_process():
                kill_processes()
            ray.shutdown()


def dead_process() -> Any:
    """The name and the process of what has died of a Ray that this process has started; None while it is whole."""
    node: Any = worker._global_node
    dead = node.dead_processes() if node else []
    return next(((name, process) for name, process in dead if name in NEEDED), None)


def check_own_ray() -> None:
    """Raises StageLostError where a Ray that this process has started cannot go on. It tells nobody by itself: without
    its raylet, it waits for a node that nobody starts; without its gcs_server, it ends this process after a minute."""
    if found := dead_process():
        node: Any = worker._global_node
        name, process = found
        code = process.poll()
        raise StageLostError(
            f"{name} of this run's Ray has died",
            where=f"process {process.pid}",
            got=f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}",
            remedy=f"its logs are in {node.get_logs_dir_path()}; a system out of memory kills so",
        )


def kill_processes() -> None:
    """Kill all processes of this Ray, with those that its raylet has started: where one is missing, others wait for
    it."""
    node: Any = worker._global_node
    own = [each.process.pid for kind in node.all_processes.values() for each in kind]
    found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    for pid in [pid for pid in found if parent_of(pid) in own] + [pid for pid in own if parent_of(pid) == os.getpid()]:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def session_of_its_own() -> Iterator[None]:
    """A context in which Ray starts its processes outside of this one's group: a signal to all of that, as timeout(1)
    and a terminal's end send, would end them before the stages have made their snapshot."""
    before = services.ConsolePopen
    if sys.platform == "linux":  # elsewhere Ray ends them by their group
        services.ConsolePopen = partial(before, start_new_session=True)  # there is no other way in
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[None]:
    """A context after which the folder of a Ray that was this run's alone is gone, which Ray would keep for good; where
    the run has failed, it stays for its logs."""
    try:
        yield
    except Interrupted:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def take_own_token() -> None:
    """Make a token for a Ray of this host alone: Ray would keep one in the home folder, where it may not write,
    perhaps, and for which every cluster that is started later would ask."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raises the Interrupted of which Ray makes a plain KeyboardInterrupt where its C++ is at work."""
    Interrupted.latest = None
    try:
        yield
    except KeyboardInterrupt as told:
        if isinstance(told, Interrupted) or Interrupted.latest is None:
            raise
        raise Interrupted.latest from None


@contextmanager
def signals_kept() -> Iterator[None]:
    """Raises Interrupted for SIGTERM, which Ray takes for itself when it starts: in Python it would end this program
    with 15, and in C++ abort it."""
    try:
        with signals_restored(), put_back(signal.SIGTERM):
            yield
    except SystemExit as left:
        if left.code != signal.SIGTERM:
            raise
        raise Interrupted(signal.SIGTERM) from left


@contextmanager
def put_back(number: int) -> Iterator[None]:
    """A context in which the kernel calls for a signal what it called before: what C++ puts in its place goes again at
    once."""
    sigaction, before, now = ctypes.CDLL(None).sigaction, *(ctypes.create_string_buffer(512) for _ in range(2))
    sigaction(number, None, before)
    done = threading.Event()

    def look() -> None:
        while not done.wait(POLL_SECONDS):
            sigaction(number, None, now)
            if now.raw != before.raw:
                sigaction(number, before, None)

    # in a thread, since the main one is within Ray's C++ meanwhile, which sets its handlers there
    thread = threading.Thread(target=look, name="ffdist handlers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def starting() -> Iterator[None]:
    """Raises ConfigError where a Ray of this host alone cannot start within."""
    try:
        yield
    except Exception as error:  # whatever Ray meets with: it has no errors of its own for this
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedies = {
            "AF_UNIX": "a shorter TMPDIR",
            "timed out": f"wait until this machine has less to do, or {setting('plan.launcher', 'processes')}",
            "": f"a /dev/shm that can be written, or {setting('plan.launcher', 'processes')}",
        }
        remedy = next(text for sign, text in remedies.items() if sign in said)
        ray.shutdown()
        raise ConfigError(
            "Ray cannot start on this host", where=f"TMPDIR {tempfile.gettempdir()}", got=said, remedy=remedy
        ) from error
