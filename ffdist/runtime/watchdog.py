"""A watchdog for a rank that is alone: a small process beside it, to which it sends signs of life.

torchrun's agent sees a rank that dies, and not one that is stopped; where there are several, they watch each other.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ffdist.errors import StageLostError, setting, unspelled
from ffdist.exiting import end_with_parent
from ffdist.notes import failure
from ffdist.runtime.heartbeat import EVERY, STACK, Activity, beating, silence_of, stacks_to
from ffdist.runtime.interrupts import SIGNALS, signals_blocked
from ffdist.runtime.world import World

STACKS = 0.5
"""Seconds that the rank has to write where it is, before it is ended."""
_activity = Activity()
"""What the process beside this one is told that this one is at."""
_watcher: subprocess.Popen[bytes] | None = None


@contextmanager
def watched(timeout: float, activity: Activity) -> Iterator[None]:
    """A context in which this process is ended, with a message of what it was at, where it gives no sign of life for so
    many seconds. Within another one of these, only what is said is changed."""
    global _watcher
    before, _activity.what = _activity.what, lambda: str(activity)
    if _watcher is not None:
        try:
            yield
        finally:
            _activity.what = before
        return
    numbers = (os.getpid(), timeout, silence_of(timeout))
    command = [sys.executable, "-m", "ffdist.runtime.watchdog", *map(str, numbers)]
    stacks_to()
    with signals_blocked():
        _watcher = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
    ended = beating(_send, _activity)
    try:
        yield
    finally:
        ended.set()
        watcher, _watcher = _watcher, None
        watcher.kill()
        watcher.wait()


def _send(what: str) -> None:
    watcher = _watcher
    with suppress(OSError, ValueError):  # it has ended: nobody watches any more
        if watcher and watcher.stdin:
            watcher.stdin.write(f"{what}\n".encode())


def watch(rank: int, timeout: float, limit: float) -> None:
    """Watch until the process `rank`, whose words come by stdin, has ended; or has been ended, after so many seconds of
    silence. timeout: what the user has set for them."""
    what = "starting"
    heard = looked = time.monotonic()
    while True:
        ready, _, _ = select.select([0], [], [], EVERY)
        now = time.monotonic()
        if ready:
            if not (said := os.read(0, 1 << 16)):
                return
            what = said.decode(errors="replace").strip().rpartition("\n")[2]
        if ready or now - looked > limit / 2:  # this process itself was stopped, or the whole machine
            heard = now
        looked = now
        if now - heard > limit:
            end(rank, timeout, what)
            return


def end(rank: int, timeout: float, what: str) -> None:
    """Say that the rank hangs and what it was at, have it write its stacks, and kill it."""
    error = StageLostError(
        "worker 0 does not answer",
        where=f"process {rank} of host {platform.node()}",
        expected=f"a sign of life within {timeout:g} s",
        got=f"silence; last it was {what}",
        remedy="where it stood is in its log; look for what has stopped the process, or raise "
        f"{setting('run.timeout')} where the machine has too much to do",
    )
    with suppress(OSError):  # nobody reads it
        failure(f"error (rank 0): {unspelled(error)}")
    # a stopped process writes its stacks only when it goes on, and then needs a moment for it
    for number, seconds in ((STACK, 0.0), (signal.SIGCONT, STACKS), (signal.SIGKILL, 0.0)):
        if os.getppid() == rank:  # else it has ended, and its number may be another's
            with suppress(OSError):
                os.kill(rank, number)
            time.sleep(seconds)


def is_alone() -> bool:
    """True if this process is the one rank of a run of torchrun's."""
    world = World.from_env()
    return world is not None and world.size == 1


if __name__ == "__main__":
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # it ends with the rank
    end_with_parent(int(sys.argv[1]))
    watch(int(sys.argv[1]), *map(float, sys.argv[2:]))
