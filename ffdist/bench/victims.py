"""Processes as the system sees them, to be killed and to be looked for afterwards: what descends from a command."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ffdist.process_stat import ProcessStat, stat_of
from ffdist.runtime.child import WORKER

RAY_ACTOR = "ray::WorkerActor"
"""The beginning of an actor's command line, which Ray makes of its class."""


class ProcessId(NamedTuple):
    """A process; its number alone may be another's by now."""

    pid: int
    began: str
    """Start time by the kernel, in clock ticks since boot: tells a process from a later one with its number."""


def processor_seconds(pid: int) -> float:
    """Seconds on a core so far. Raises OSError where there is no such process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(parent: int) -> list[ProcessId]:
    """Descendants of a process at any depth, without zombies."""
    all_of = dict[int, ProcessStat]()
    for folder in Path("/proc").glob("[0-9]*"):
        if found := stat_of(int(folder.name)):
            all_of[int(folder.name)] = found
    found, wanted = list[ProcessId](), {parent}
    while wanted:
        mine = [pid for pid, stat in all_of.items() if stat.parent in wanted]
        found += [ProcessId(pid, all_of[pid].began) for pid in mine if all_of[pid].state != "Z"]
        wanted = set(mine)
    return found


def is_running(seen: ProcessId) -> bool:
    """True if this very process is alive: not a zombie, and not another one that got its number."""
    found = stat_of(seen.pid)
    return found is not None and found.state not in "ZX" and found.began == seen.began


def left_of(seen: set[ProcessId], timeout: float) -> list[ProcessId]:
    """Processes that are still alive `timeout` seconds from now; returns at once when there is none."""
    deadline = time.monotonic() + timeout
    while (left := [each for each in seen if is_running(each)]) and time.monotonic() < deadline:
        time.sleep(0.02)  # only a parent is told of a process's end, and most of these are others' children
    return left


def command_line_of(pid: int) -> list[str]:
    """The command line of a process, by words; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def name_of(pid: int) -> str:
    """The name that a process has given itself; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def is_worker(seen: ProcessId, launcher: str) -> bool:
    """True if it is a stage's process of such a launcher."""
    words = command_line_of(seen.pid)
    if launcher == "processes":
        return name_of(seen.pid).startswith(WORKER)
    if launcher == "ray":
        return words[:1] != [] and words[0].startswith(RAY_ACTOR)
    return "ffdist" in words and "-m" in words and "train" in words and _has_rank(seen.pid)


def _has_rank(pid: int) -> bool:
    with suppress(OSError):
        return b"LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def shared_by(seen: Iterable[ProcessId]) -> set[str]:
    """Names in /dev/shm that these processes have mapped: others on this machine have theirs there, too."""
    found = set[str]()
    for each in seen:
        with suppress(OSError):
            lines = Path(f"/proc/{each.pid}/maps").read_text().splitlines()
            found |= {line.rpartition("/dev/shm/")[2] for line in lines if "/dev/shm/" in line}
    return found


def kept_in(folder: Path, prefix: str = "") -> set[str]:
    """Names there that begin so."""
    with suppress(OSError):
        return {name for name in os.listdir(folder) if name.startswith(prefix)}
    return set()
