"""Linux's word on a process, by /proc. Imports nothing that takes long: it is read before torch is there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """A process's parent, its state by one letter ("T", "t": it is stopped; "Z", "X": it has ended), and when it was
    started."""

    parent: int
    state: str
    began: str
    """Clock ticks since boot."""


def stat_of(pid: int) -> ProcessStat | None:
    """The facts on a process; None for no process, or where the system has no /proc."""
    try:  # the name, in brackets, may hold anything: blanks and brackets too
        state, parent, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return ProcessStat(int(parent), state, rest[17])
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int) -> bool:
    """True if there is such a process, which has not ended."""
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def parent_of(pid: int) -> int | None:
    """The parent of a process; None as for `stat_of`."""
    found = stat_of(pid)
    return found.parent if found else None


def is_stopped(pid: int) -> bool:
    """True if there is such a process, and it stands still until somebody tells it to go on."""
    found = stat_of(pid)
    return found is not None and found.state in "Tt"


def ignores(pid: int, number: int) -> bool:
    """True if there is such a process, and it ignores the signal of that number."""
    try:
        (ignored,) = [
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")
        ]
        return bool(int(ignored.split()[1], 16) >> (number - 1) & 1)
    except (OSError, ValueError, IndexError):
        return False
