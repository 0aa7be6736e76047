"""Processes as the system sees them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ffdist.bench.victims import descendants, name_of
from ffdist.runtime.child import WORKER


def children(parent: int) -> list[int]:
    """Process ids of those that this one has started, and that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def stages_of(parent: int, rank: int) -> list[int]:
    """The process of a worker, where it is alive."""
    return [each.pid for each in descendants(parent) if name_of(each.pid) == f"{WORKER}{rank}"]


def command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []
