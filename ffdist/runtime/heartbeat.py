"""Signs of life: what a worker is at, told often enough that one which stands still is known to do so.

A worker that computes for long is slow, and beats on; one that is stopped, swapped out or cut off does not. So the
time within which somebody must answer is that of the process, not of its work.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

EVERY = 0.5
"""Seconds between two beats."""
MIN_SILENCE, SLACK = 4.0, 1.0
"""Seconds: no silence is shorter than the first, and the second is added to any, for a machine with much to do. With
what passes between two looks of who watches, it stays below five."""
WORK_TIMEOUTS = 10
"""So many times the timeout may work take of which only its slowness is known."""
STACK = signal.SIGUSR2
"""A worker that gets this signal writes where each of its threads is."""


class Activity:
    """A worker's present activity; set by the worker, read in other threads."""

    def __init__(self) -> None:
        self.what: Callable[[], str] = lambda: "starting"
        self.phases = [("starting", time.monotonic())]
        """What it was at, and since when by the monotonic clock."""

    def __str__(self) -> str:
        try:
            return self.what()
        except Exception:  # something changed while it was looked at
            return "at work"

    def set(self, text: str) -> None:
        """Begin another activity, and note when: `durations` tells how long each took."""
        self.what = lambda: text
        self.phases.append((text, time.monotonic()))

    def durations(self) -> str:
        """Say what it was at, and for how many seconds."""
        ends = [*(begun for _, begun in self.phases[1:]), time.monotonic()]
        return ", ".join(f"{what} {end - begun:.2f}" for (what, begun), end in zip(self.phases, ends, strict=True))


def silence_of(timeout: float) -> float:
    """Seconds without a beat after which a worker hangs, by the seconds that the user has set."""
    return max(timeout, MIN_SILENCE) + SLACK


def beating(beat: Callable[[str], None], activity: Activity) -> threading.Event:
    """Call `beat` in a thread of its own from now on, until the event that is returned is set."""
    ended = threading.Event()

    def live() -> None:
        while not ended.is_set():
            beat(str(activity))
            ended.wait(EVERY)

    # of its own, since the main thread may compute or wait for longer than a silence; torch lets go of the GIL in both
    threading.Thread(target=live, name="ffdist beat", daemon=True).start()
    return ended


_log: IO[Any] | None = None
"""Where stacks go; None: stderr."""


def stacks_to(file: IO[Any] | None = None) -> None:
    """Set the file to which the signal `STACK` writes stacks: stderr, or a worker's log. Of no effect where somebody
    else uses the signal."""
    global _log
    if signal.getsignal(STACK) is signal.SIG_DFL or file is not None:
        _log = file
        faulthandler.register(STACK, file or sys.stderr, all_threads=True)


def write_stacks() -> None:
    """Write the stack of each thread of this process, as the signal `STACK` does."""
    with suppress(OSError, ValueError):  # the log is closed
        faulthandler.dump_traceback(_log or sys.stderr, all_threads=True)
