"""A script that torchrun has started, and that trains in Python: its processes join as the stages of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ffdist.errors import ConfigError, setting
from ffdist.events import Observers
from ffdist.exiting import end_with_parent
from ffdist.notes import note
from ffdist.runtime.agree import agree
from ffdist.runtime.folder import has_ended, locked
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import await_key, find_key, set_key
from ffdist.runtime.outcome import Result
from ffdist.runtime.peer_monitor import watching_each_other
from ffdist.runtime.run import SETTINGS
from ffdist.runtime.threads import computing_threads_kept
from ffdist.runtime.torchrun import RankSignals, Rendezvous, meet, run_rank
from ffdist.runtime.worker import idle_gpus_note
from ffdist.runtime.world import World
from ffdist.scratch import scratch_folder
from ffdist.snapshot import committed

RUNS = count()
"""The runs of this process, in order: a script that is started again, and trains several times, comes by the same
ones."""


class RunPlace(NamedTuple):
    """The place where the run is kept, as rank 0 tells the others."""

    run: str
    resume: bool
    """Whether there is a snapshot to go on from."""
    ended: bool
    """Whether nothing is left to do: an earlier attempt of the script has done it."""


Begin = Callable[[], AbstractContextManager[Path]]


@dataclass(frozen=True)
class JoinedRun:
    """This process as one stage of the run that a script of torchrun's comes to."""

    world: World
    job: Job
    begin: Begin | None
    """Begins the run's folder, or goes on in it, on rank 0; None for a folder that nobody keeps."""
    resume: bool
    finished: Callable[[], bool]
    """Whether the run that is to go on has come to its end."""
    ready: Callable[[Path], Callable[[], None] | None]
    """For the last stage: `Job.ready` in that folder."""
    number: int = field(default_factory=lambda: next(RUNS))

    def train(self, watching: Callable[[Path], Observers], use: Callable[[Path, Result | None], Result]) -> Result:
        """Train with the others. `watching` makes its observers, on the last rank. `use` gets the run's
        folder on each rank, and what came of it, or None where it had ended before; all ranks wait for one another
        then, and have the same result.

        Raises StageError where a rank stays away, or has failed; ConfigError where nobody keeps a run of several hosts.
        """
        job, world = self.job, self.world
        if self.begin is None and world.local_size not in (0, world.size):
            raise ConfigError(
                "a run on several hosts needs a folder that all of them have",
                where=setting("run.out"),
                expected="a folder on a shared file system",
                got="none",
                remedy="fit(data, out=FOLDER)",
            )
        signals = RankSignals(world.first)
        end_with_parent(os.getppid())
        if world.local_rank == 0 and (text := idle_gpus_note(job.settings.compute.device, world)):
            note(text)
        with signals.handling(), computing_threads_kept(), ExitStack() as start:
            meeting, activity = meet(world, job.timeout), Activity()
            start.enter_context(watching_each_other(meeting.world, job.timeout.total_seconds(), activity))
            store, key = meeting.store, f"run {self.number}"
            place = RunPlace(*agree(store, world, key, lambda: self._place(meeting, key, start), job.timeout))
            run = Path(place.run)
            made = Job(
                job.chain,
                job.objective,
                job.images,
                job.settings,
                world.size,
                run,
                place.resume,
                ready=self.ready(run),
                metrics=job.metrics,
            )
            result = None
            if not place.ended:
                observer = watching(run) if world.last else Observers([])
                with closing(observer):
                    result = run_rank(
                        lambda: made, meeting.world, store, observer, signals, activity, timeout=job.timeout
                    )
                result = shared(meeting, result, job.timeout)
            found = use(run, result)
            wait_for_all(meeting, job.timeout)
        return found

    def _place(self, meeting: Rendezvous, key: str, start: ExitStack) -> RunPlace:
        """The place, decided on rank 0 alone. A restarted attempt goes on where the one before has come to."""
        if self.begin is None:
            return RunPlace(str(start.enter_context(scratch_folder())), False, False)
        if found := find_key(meeting.lasting, key, where=str(self.world)):
            run = Path(found.decode())
            if (run / SETTINGS).exists():  # else the former attempt was refused, and left nothing
                start.enter_context(locked(run))
                return RunPlace(str(run), bool(committed(run)), has_ended(run))
        run = start.enter_context(self.begin())
        set_key(meeting.lasting, key, str(run), where=str(self.world))
        return RunPlace(str(run), self.resume and bool(committed(run)), self.resume and self.finished())


def shared(meeting: Rendezvous, result: Result, timeout: timedelta) -> Result:
    """Share with every rank what the last one alone knows."""
    where, key = str(meeting.world), "result"
    if meeting.world.last:
        said = {"reason": result.reason, "records": result.records, "signal": result.signal, "test": result.test}
        set_key(meeting.store, key, json.dumps(said), where=where)
        return result
    failure = "the last stage did not tell the result"
    return Result(**json.loads(await_key(meeting.store, key, timeout, failure=failure, where=where)))


def wait_for_all(meeting: Rendezvous, timeout: timedelta) -> None:
    """Wait until every rank has come here: the folder, and the store, may go with rank 0."""
    where, failure = str(meeting.world), "a rank did not load the trained network"
    set_key(meeting.store, f"loaded {meeting.world.rank}", "", where=where)
    others = range(meeting.world.size) if meeting.world.first else ()
    for rank in others:
        await_key(meeting.store, f"loaded {rank}", timeout, failure=failure, where=where)
