"""This process as one stage of a run that torchrun started."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event, current_thread, main_thread
from types import FrameType

import torch.distributed as dist

from ffdist.errors import Interrupted, StageError, exit_status, unspelled
from ffdist.events import Observer, stopping
from ffdist.runtime.agent import check_agent
from ffdist.runtime.attempt import RanksAwayError, share_attempt
from ffdist.runtime.heartbeat import WORK_TIMEOUTS, Activity
from ffdist.runtime.interrupts import handle_in_thread, handle_signals, say_stopping, signals_restored
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.outcome import Result
from ffdist.runtime.polling import polling
from ffdist.runtime.run_worker import run_worker
from ffdist.runtime.siblings import end_with_error, sibling_of_rank
from ffdist.runtime.world import World

STOP_SECONDS = 3.0
"""Seconds in which a rank that is told to stop before the stages are ready may tidy up; it may wait inside of torch."""
STOP = "stop"
"""The store's key under which a rank that was told to stop tells the others the signal's number."""
POLL_SECONDS = 1.0
"""Seconds between two looks whether another rank was told to stop."""


@dataclass(frozen=True)
class Rendezvous:
    """All ranks, met at torchrun's store."""

    world: World
    """This rank's place, with the attempt's number that all ranks share."""
    store: dist.Store
    """Keys of this attempt: what a killed attempt left there is not seen."""
    lasting: dist.Store
    """Keys that the run's later attempts see, too."""


def meet(world: World, timeout: timedelta) -> Rendezvous:
    """Wait for all ranks. Raises StageError when one stays away; where that is one of this host, both end here:
    torchrun would wait for half a minute until one that is stopped does. Raises ConfigError as `check_agent` does."""
    check_agent()
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        lasting = dist.PrefixStore(f"ffdist/{world.run_id}", store)
        attempt = share_attempt(lasting, world, timeout)
    except RanksAwayError as error:
        if hung := [pid for rank in error.ranks if (pid := sibling_of_rank(rank))]:
            end_with_error(world.rank, error, hung)
        raise
    except dist.DistError as error:
        raise StageError(
            "the ranks did not meet",
            where=f"rank {world.rank} of {world.size}",
            got=error,
            remedy="check torchrun's rendezvous options, and the network between the hosts",
        ) from error
    return Rendezvous(replace(world, attempt=attempt), dist.PrefixStore(str(attempt), lasting), lasting)


class RankSignals:
    """The handling of SIGINT, SIGTERM and SIGHUP in this rank: before the stages are ready it ends, later all end
    after a snapshot. How often they come does not matter: torchrun, and who stops torchrun, may both send one."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.stop = Event()
        self.number = 0
        self.ready = False
        self._store: dist.Store | None = None
        self._polling = ExitStack()

    def handle(self) -> None:
        """Handle them for the rest of this process's life; `handling` does so for a while."""
        handle_signals(self._unwind)
        handle_in_thread(self._heard)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """A context that handles signals: after it signals do what they did before. Of no effect outside the main
        thread."""
        if current_thread() is not main_thread():
            yield
            return
        with signals_restored():
            handle_signals(self._unwind)
            before = handle_in_thread(self._heard)
            try:
                yield
            finally:
                os.close(signal.set_wakeup_fd(before))

    def begin(self, store: dist.Store) -> None:
        """The stages are ready. From now on a rank that is told to stop tells the first one, by the store."""
        self._store = store
        self.ready = True
        if self.first:
            then = lambda: self._begin_to_stop(posted_signal(store))  # noqa: E731
            self._polling.enter_context(polling(lambda: store.check([STOP]), then, POLL_SECONDS))

    def end(self) -> None:
        """The stages have ended: nobody looks any more whether another rank is told to stop."""
        self._polling.close()

    def _unwind(self, number: int, frame: FrameType | None) -> None:
        if not self.ready and not self.number:
            self.number = number
            raise Interrupted(number)

    def _heard(self, number: int) -> None:
        """Called in a thread of its own, so that it happens whatever the main one waits for."""
        if not self.ready:
            time.sleep(STOP_SECONDS)
            os._exit(exit_status(number))
        self.number = number
        self.stop_all()

    def stop_all(self) -> None:
        """End the run early, with a snapshot: the first rank is told."""
        if self._store is not None:
            with suppress(RuntimeError):  # the run is at its end
                self._store.set(STOP, str(self.number))
        if self.first:
            self._begin_to_stop(self.number)

    def _begin_to_stop(self, number: int) -> None:
        """number: the signal's; 0 where an observer wants the run to end."""
        if number and not self.stop.is_set():
            say_stopping(number, again=False)
        self.stop.set()


def run_rank(
    make_job: Callable[[], Job],
    world: World,
    store: dist.Store,
    observer: Observer,
    signals: RankSignals,
    activity: Activity,
    *,
    timeout: timedelta,
) -> Result:
    """This rank's stage until the stream stops; SIGTERM, SIGINT and SIGHUP end the run early, with a snapshot.

    `observer` is called on the last rank only; the result is whole there, and elsewhere it has the reason and the
    signal. activity: told what this rank is at, for those who watch it.
    """
    result = Result()
    observing = stopping(result.collecting(observer), signals.stop_all)
    with ending_together(store, world, timeout, result):
        ready = lambda: signals.begin(store)  # noqa: E731
        try:
            run_worker(make_job, world, store, observing, stop=signals.stop, activity=activity, ready=ready)
        finally:
            signals.end()
    if result.reason == "interrupted":
        result.signal = signals.number or posted_signal(store)
    return result


def posted_signal(store: dist.Store) -> int:
    """The signal that another rank was told to stop by; 0 where it was no signal."""
    with suppress(RuntimeError, ValueError):
        if store.check([STOP]):
            return int(store.get(STOP))
    return 0


@contextmanager
def ending_together(store: dist.Store, world: World, timeout: timedelta, result: Result) -> Iterator[None]:
    """No rank ends well before the last one has, which commits the last snapshot when the others have long sent all;
    why it has ended is then known to all.

    Raises StageError on the others when it could not.
    """
    try:
        yield
    except Exception as error:  # whatever it is, the other ranks wait for a word of this one
        if world.last:
            with suppress(RuntimeError):  # the store is gone, too
                store.set("end", json.dumps({"error": unspelled(error)}))
        raise
    if world.last:
        set_key(store, "end", json.dumps({"reason": result.reason}), where=str(world))
        return
    failure, work_timeout = "the last stage did not end", timeout * WORK_TIMEOUTS
    said = json.loads(await_key(store, "end", work_timeout, failure=failure, where=str(world)))
    if "error" in said:
        raise StageError("the last stage could not end", where=world, got=said["error"])
    result.reason = said["reason"]
