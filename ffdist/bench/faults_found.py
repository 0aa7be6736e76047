"""What came of a run's kills, as a record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ffdist.bench.disturbed import PLANS, Launcher
from ffdist.bench.harness.finding import BenchResult
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.schedule import MOMENTS, Fault
from ffdist.cores import available_cores


@dataclass
class KillOutcome:
    """What came of one kill."""

    fault: Fault
    at: float
    begun: int
    """Starts of the stages so far."""
    step: int
    """The last batch that was learned."""
    again: float | None = None
    """Seconds until the stages were ready for the next batch; None where they were killed before."""
    lost: int | None = None
    """Batches that were learned again."""


STARTS = {False: 1, True: 2}
"""How often torch is loaded in a row until the run learns again, by whether the launcher was killed: it needs torch to
check what it is told before it starts workers, which need it, too."""


@dataclass(frozen=True)
class DisturbedRunCosts:
    """What else there is to tell of the run."""

    seconds: float
    started: int
    """How often the command was."""
    refused: int
    """How often it ended by itself, since the one before was still at work."""
    load: float
    """Processes that wanted a core, on average."""
    torch: float
    """Seconds that a process takes until it has loaded it."""

    def without_torch(self, kill: KillOutcome) -> float | None:
        return None if kill.again is None else max(0.0, kill.again - STARTS[kill.fault.launcher] * self.torch)


def finding(launcher: Launcher, kills: Sequence[KillOutcome], costs: DisturbedRunCosts) -> BenchResult:
    of_launcher = [kill for kill in kills if kill.fault.launcher]
    summary = {
        "launcher": launcher,
        "kills": len(kills),
        "of_launcher": len(of_launcher),
        "seconds": costs.seconds,
        "load": costs.load,
        "started": costs.started,
        "refused_at_once": costs.refused,
        "start_up_seconds": costs.torch,
        "again_seconds": middle(kill.again for kill in kills),
        "again_without_start_up": middle(map(costs.without_torch, kills)),
        "lost_batches": sum(kill.lost or 0 for kill in kills),
        "lost_most": max((kill.lost for kill in kills if kill.lost is not None), default=None),
        "equal": True,
        "left": 0,
    }
    made = kill_table("moments", f"{launcher}: {len(kills)} kills")
    for each in MOMENTS:
        add(made, launcher, each, by_moment(kills, each), costs)
    by_whom = kill_table("victims", "by who was killed")
    add(by_whom, launcher, "a worker", [kill for kill in kills if not kill.fault.launcher], costs)
    add(by_whom, launcher, "what had started the workers", of_launcher, costs)
    notes = [
        f"{len(kills)} kills by SIGKILL in {costs.seconds:.0f} s, {len(of_launcher)} of them of what had started the "
        "workers: weights, optimiser, metrics and test equal the undisturbed run's to the bit.",
        "After it: no process, no shared memory, no temporary file, no part of a file was left; each launcher's death "
        "ended its workers.",
        f"Until a process has loaded torch it takes {costs.torch:.1f} s here; once behind a worker's death, twice in a "
        'row behind its launcher\'s. "without torch" is without these.',
        f"Load average (15 minutes) at the end: {costs.load:.1f}, on {available_cores()} cores; where it is more than "
        "the run's own, other work went on beside it, and all seconds are upper bounds.",
        f"Plans, changed at each --resume: {'; '.join(PLANS)}.",
    ]
    return BenchResult(f"faults-{launcher}", summary, [made, by_whom], notes)


def by_moment(kills: Sequence[KillOutcome], moment: str) -> list[KillOutcome]:
    return [kill for kill in kills if kill.fault.moment == moment]


def kill_table(part: str, title: str) -> ResultTable:
    columns = {
        "killed": "killed",
        "kills": "kills",
        "of the launcher": "of_launcher",
        "s to learning again": "again",
        "at most": "again.most",
        "without torch": "without_torch",
        "batches lost": "lost",
        "most": "lost.most",
    }
    units = {"kills": "", "of_launcher": "", "again": "s", "without_torch": "s", "lost": "batches"}
    return ResultTable(part, title, columns, units)


def add(
    made: ResultTable, launcher: Launcher, killed: str, kills: Sequence[KillOutcome], costs: DisturbedRunCosts
) -> None:
    """A line. again: seconds from the kill until the stages were ready for the next batch."""
    made.add(
        side=launcher,
        killed=killed,
        kills=len(kills),
        of_launcher=sum(kill.fault.launcher for kill in kills),
        again=Summary.of([kill.again for kill in kills if kill.again is not None]),
        without_torch=middle(map(costs.without_torch, kills)),
        lost=Summary.of([kill.lost for kill in kills if kill.lost is not None]),
    )


def middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
