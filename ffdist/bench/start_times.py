"""The time that a run's starts took on imports alone, by its own logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ffdist.bench.faults_found import KillOutcome
from ffdist.runtime.record import read_starts

READY = re.compile(r"(\S+) ready; seconds: imports ([\d.]+);")
BEHIND = 3.0
"""Seconds by which a worker's "ready" may be later than the moment at which the run was seen to learn again."""


class Ready(NamedTuple):
    """A worker's report that it is ready, as the run log has it."""

    time: float
    imports: float
    """Seconds."""


def note_imports(run: Path, kills: Iterable[KillOutcome]) -> None:
    """Set `imports` of each kill after which the run learned again.

    It is the longest time that any worker took to import torch and the rest; after the launcher's death plus the
    launcher's own, as workers start only then.
    """
    ready, starts = ready_in(run), read_starts(run)
    for kill in kills:
        if kill.again is None:
            continue
        until = kill.at + kill.again + BEHIND
        kill.imports = max((each.imports for each in ready if kill.at < each.time < until), default=0.0)
        if kill.fault.victim == "launcher" and kill.begun < len(starts):
            kill.imports += float(starts[kill.begun].get("import_seconds", 0.0))


def ready_in(run: Path) -> Sequence[Ready]:
    """The reports of all workers of all starts."""
    return [
        Ready(datetime.fromisoformat(found[1]).timestamp(), float(found[2]))
        for log in run.glob("stage-*.log")
        for found in READY.finditer(log.read_text(errors="replace"))
    ]
