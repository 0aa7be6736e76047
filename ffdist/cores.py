"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

SYSTEM = Path("/")


def available_cores(system: Path = SYSTEM) -> int:
    """Those that it is bound to, or as many as its control groups give it the time of, rounded up.

    system: the root of the file system where its control groups are described.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(system)
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def cpu_quota(system: Path = SYSTEM) -> float | None:
    """Seconds of computing a second that this process's control groups allow, of version 1 or 2; None: no limit."""
    quotas = list[float]()
    for group in groups(system):
        with suppress(OSError, ValueError):  # another version's file, or no limit: "max", or a quota of -1
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            quotas.append(int(quota) / int(period))
    return min((quota for quota in quotas if quota > 0), default=None)


def groups(system: Path) -> Iterator[Path]:
    """The folders of this process's groups that limit computing, and of all that these are in: each limits, too."""
    try:
        mounts = (system / "proc/self/mountinfo").read_text().splitlines()
        own = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    paths = dict(line.split(":", 2)[1:] for line in own if line.count(":") >= 2)
    for mount in mounts:
        *_, root, folder = mount.split()[:5]
        kind, _, options = mount.partition(" - ")[2].split(maxsplit=2)
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and "cpu" in options.split()[-1].split(","):
            path = next((path for names, path in paths.items() if "cpu" in names.split(",")), None)
        else:
            continue
        yield from upwards(system / folder.lstrip("/"), PurePosixPath(root), PurePosixPath(path or "/"))


def upwards(folder: Path, root: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """The groups from `path` up to the one that is mounted at `folder`, whose own path is `root`: a container sees no
    more, and may not see the names of those above."""
    inner = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    yield folder
    for part in inner.parts:
        folder = folder / part
        yield folder
