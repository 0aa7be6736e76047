"""The one supervisor of a run: attempt after attempt, as long as they bring the run forward.

A launcher makes an attempt: it starts the workers, waits for them, and ends them. Failures are told apart here: a
worker that died, hangs or cannot be reached is no fault of the job's, and the run goes on from its last snapshot; the
job's own error would come again, and ends it. Attempts that made no snapshot are counted, so that losses which are
spread over a long run do not end it, and a run that dies at its start does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ffdist.errors import StageLostError, TransportError
from ffdist.events import Observer, RunRestarted
from ffdist.regular import append_to
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, cause_of
from ffdist.runtime.world import World
from ffdist.snapshot import committed

RESTARTS = "restarts.log"


class AttemptLost(Exception):  # noqa: N818 - it is no error yet: the run may go on
    """Workers died, or lost one another, through no fault of the job's; `cause` explains it best."""

    def __init__(self, cause: BaseException, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.cause = cause
        self.reasons = list(reasons)


@dataclass
class Budget:
    """The budget of attempts in a row that may fail without a new snapshot."""

    run: Path | None
    max_restarts: int
    """The most of them, before the run ends; 0: it does not begin again at all."""
    spent: int = 0
    """Attempts in a row that made none."""
    seen: str | None = field(init=False)
    """The newest snapshot when an attempt failed last."""

    def __post_init__(self) -> None:
        self.seen = self.newest()

    def newest(self) -> str | None:
        """The name of the newest snapshot; None where there is none, or no run folder."""
        found = committed(self.run) if self.run else []
        return found[-1].name if found else None

    def spend(self) -> bool:
        """An attempt has failed: whether there may be another."""
        newest = self.newest()
        self.spent = 0 if newest != self.seen else self.spent + 1
        self.seen = newest
        return 0 < self.max_restarts >= self.spent


def supervise(
    attempt: Callable[[int], Result],
    observer: Observer,
    *,
    run: Path | None,
    max_restarts: int,
    stopping: Callable[[], bool] = lambda: False,
) -> Result:
    """Call `attempt`, with its number from 0, until one ends by itself; observers hear of each restart, and
    RUN/restarts.log says why.

    stopping: whether the run has been told to stop, and is not to begin again. Raises what an attempt raises; of one
    that was lost the cause, where it was one too many.
    """
    budget = Budget(run, max_restarts)
    for number in itertools.count():
        try:
            return attempt(number)
        except AttemptLost as lost:
            note_in(run, RESTARTS, f"attempt {number}: {lost}")
            if stopping() or not budget.spend():
                raise lost.cause from lost
            observer(RunRestarted(max(1, budget.spent), max_restarts, str(lost)))
    raise AssertionError("an attempt returns or raises")


def verdict(errors: Sequence[BaseException], hung: Sequence[str] = ()) -> BaseException:
    """Judge a failed attempt: AttemptLost where another may help, else the error that explains the others.

    hung: the workers that did not end though others had failed, as users know them.
    """
    cause = cause_of(errors, hung)
    return AttemptLost(cause, [brief(cause)]) if may_pass(cause) else cause


def may_pass(error: BaseException) -> bool:
    """True if another attempt may help."""
    return isinstance(error, (StageLostError, TransportError))


def brief(error: BaseException) -> str:
    """Describe a failure in a line."""
    details = getattr(error, "details", {})
    where = f" ({details['where']})" if details.get("where") else ""
    got = str(details.get("got") or "").partition("\n")[0].removesuffix("; it said:")
    return f"{str(details.get('what', error)).partition(chr(10))[0]}{where}" + (f": {got}" if got else "")


def resumed_job(job: Job, world: World) -> Job:
    """The job of a later attempt goes on from the last snapshot, where there is one."""
    if world.attempt == 0 or job.run is None or not committed(job.run):
        return job
    return replace(job, resume=True)


def note_in(run: Path | None, name: str, text: str) -> None:
    """A line in a log of the run's, with the time; nothing where that cannot be written: no run ends by it."""
    if run is None:
        return
    try:
        with append_to(run / name) as log:
            log.write(f"{datetime.now().isoformat(timespec='milliseconds')} {text}\n")
    except OSError:
        pass
