"""The outcomes of a run's kills, as a record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from ffdist.bench.disturbed import PLANS, Launcher
from ffdist.bench.fault_schedule import MOMENTS, Fault
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable
from ffdist.cores import available_cores

VICTIMS = {
    "worker": "a worker",
    "launcher": "what had started the workers",
    "node": "a node of Ray's",
    "fork server": "what workers are forked from",
}


@dataclass
class KillOutcome:
    """The outcome of one kill."""

    fault: Fault
    at: float
    """When, by the clock of this host."""
    begun: int
    """Starts of the stages so far."""
    step: int
    """The last batch that was learned."""
    again: float | None = None
    """Seconds until the stages were ready for the next batch; None where they were killed before."""
    lost: int | None = None
    """Batches that were learned again."""
    imports: float = 0.0
    """Seconds of `again` in which processes imported torch and the like."""
    since: float = field(default_factory=time.monotonic)
    """When, by a clock that nobody sets."""

    @property
    def of_launcher(self) -> bool:
        """True if the launcher was killed, and not a worker or node."""
        return self.fault.victim == "launcher"

    @property
    def without_torch(self) -> float | None:
        """Seconds of `again` without imports."""
        return None if self.again is None else max(0.0, self.again - self.imports)


@dataclass(frozen=True)
class DisturbedRunCosts:
    """Facts of the whole run, beside its kills."""

    seconds: float
    started: int
    """How often the command was started."""
    refused: int
    """How often it ended by itself, since the one before was still at work."""
    load: float
    """Processes that wanted a core, on average."""


def result_of(launcher: Launcher, kills: Sequence[KillOutcome], costs: DisturbedRunCosts) -> BenchResult:
    """The record of all kills: a table of each kind of victim and moment, and a summary."""
    of_launcher = [kill for kill in kills if kill.of_launcher]
    summary = {
        "launcher": launcher,
        "kills": len(kills),
        "of_launcher": len(of_launcher),
        "seconds": costs.seconds,
        "load": costs.load,
        "started": costs.started,
        "refused_at_once": costs.refused,
        "import_seconds": middle(kill.imports for kill in kills if kill.again is not None),
        "again_seconds": middle(kill.again for kill in kills),
        "again_without_imports": middle(kill.without_torch for kill in kills),
        "lost_batches": sum(kill.lost or 0 for kill in kills),
        "lost_most": max((kill.lost for kill in kills if kill.lost is not None), default=None),
        "equal": True,
        "left": 0,
    }
    made = kill_table("moments", f"{launcher}: {len(kills)} kills")
    for each in MOMENTS:
        add(made, launcher, each, [kill for kill in kills if kill.fault.moment == each])
    by_whom = kill_table("victims", "by who was killed")
    for victim, name in VICTIMS.items():
        if whose := [kill for kill in kills if kill.fault.victim == victim]:
            add(by_whom, launcher, name, whose)
    notes = [
        f"{len(kills)} kills by SIGKILL in {costs.seconds:.0f} s, {len(of_launcher)} of them of what had started the "
        "workers: weights, optimiser, metrics and test equal the undisturbed run's to the bit.",
        "After it: no process, no shared memory, no temporary file, no part of a file was left; each launcher's death "
        "ended its workers.",
        '"without torch" is without the seconds in which these very starts imported torch and the like, as the run '
        "has noted them: the longest of all workers, and after the launcher's death also its own before.",
        f"Load average (15 minutes) at the end: {costs.load:.1f}, on {available_cores()} cores; where it is more than "
        "the run's own, other work went on beside it, and all seconds are upper bounds.",
        f"Plans, changed at each --resume: {'; '.join(PLANS)}.",
    ]
    return BenchResult(f"faults-{launcher}", summary, [made, by_whom], notes)


def kill_table(part: str, title: str) -> ResultTable:
    """An empty table of kills, a line for each kind."""
    columns = {
        "killed": "killed",
        "kills": "kills",
        "of the launcher": "of_launcher",
        "s to learning again": "again",
        "at most": "again.max",
        "without torch": "without_torch",
        "of these at most": "without_torch.max",
        "batches lost": "lost",
        "max": "lost.max",
    }
    units = {"kills": "", "of_launcher": "", "again": "s", "without_torch": "s", "lost": "batches"}
    return ResultTable(part, title, columns, units)


def add(made: ResultTable, launcher: Launcher, killed: str, kills: Sequence[KillOutcome]) -> None:
    """A line. again: seconds from the kill until the stages were ready for the next batch."""
    made.add(
        side=launcher,
        killed=killed,
        kills=len(kills),
        of_launcher=sum(kill.of_launcher for kill in kills),
        again=Summary.of([kill.again for kill in kills if kill.again is not None]),
        without_torch=Summary.of([kill.without_torch for kill in kills if kill.without_torch is not None]),
        lost=Summary.of([kill.lost for kill in kills if kill.lost is not None]),
    )


def middle(values: Iterable[float | None]) -> float | None:
    """The median of the known values; None where none is known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
