"""The stages of a run as actors on a Ray cluster: made, sent into an attempt, watched, replaced if lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ffdist.errors import Interrupted, StageLostError, setting
from ffdist.events import Observer, StagesPlaced, from_json
from ffdist.notes import failure, note
from ffdist.runtime.actor_errors import brief_of, check_actor_infos, error_of_attempt, hung_error, with_place
from ffdist.runtime.actor_heartbeats import POLL_SECONDS, Heartbeats
from ffdist.runtime.heartbeat import STACK
from ffdist.runtime.interrupts import say_stopping
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.polling import polling
from ffdist.runtime.ray_actor import CONCURRENCY, NOTE, ActorInfo, WorkerActor
from ffdist.runtime.ray_cluster import RayOptions, check_node, needs, no_room_error
from ffdist.runtime.ray_gcs import EVERY, GcsMonitor
from ffdist.runtime.ray_own import check_own_ray
from ffdist.runtime.ray_store import Address, KeyValueActor
from ffdist.runtime.supervise import AttemptLost
from ffdist.runtime.worker_stages import StoppedBeforeStartError
from ffdist.runtime.world import World

STACK_SECONDS = 0.3
"""Seconds that a worker has to write where it is."""
GRACE = 10.0
"""Seconds the other stages have to end by themselves after one has failed."""
LEAVE = 1.0
"""Seconds an actor has to answer that it ends itself."""


@dataclass
class ActorGroup:
    """An actor for each stage; None where it is to be made (anew)."""

    make_job: Callable[[], Job]
    run: Path | None
    data: str
    options: RayOptions
    group: PlacementGroup
    actors: list[Any]
    actor_infos: list[ActorInfo] = field(default_factory=list)
    meeting: Address | Any = None
    stop_signal: int = 0
    """The number of the signal by which it is to stop; 0: none came."""
    ends_early: bool = False
    """Whether an observer wants the run to end."""
    is_placed: bool = False
    """Whether every stage has its place, and `run` was called on it."""
    begun: bool = False
    """Whether stages were at work in an earlier attempt."""
    gcs: GcsMonitor = field(default_factory=GcsMonitor)

    def attempt(self, number: int, observer: Observer) -> Result:
        """One attempt of the pipeline. Raises AttemptLost where another may help, else what stopped it."""
        with polling(self.gcs.look, lambda: None, EVERY):
            return self._attempt(number, observer)

    def _attempt(self, number: int, observer: Observer) -> Result:
        self._gather(number)
        observer(StagesPlaced(number, [info._asdict() for info in self.actor_infos]))
        self.is_placed = True
        runs = {actor.run.remote(self.make_job, self.meeting): rank for rank, actor in enumerate(self.actors)}
        if self.stop_signal:
            self.stop(self.stop_signal)
        if self.ends_early:
            self.end_early()
        result = Result()
        errors = self._watch(runs, result.collecting(observer))
        if self.gcs.lost and (errors or result.reason == "interrupted"):
            raise self.gcs.lost_error()
        if errors:
            self._dismiss_unfit(set(errors))
            if any(isinstance(error, StoppedBeforeStartError) for error in errors.values()):
                raise Interrupted(self.stop_signal, begun=self.begun)
            raise error_of_attempt(errors, self.actor_infos)
        return result

    def stop(self, number: int) -> None:
        """End the run early, with a snapshot, as a signal tells. Raises Interrupted where no stage runs yet."""
        self.stop_signal = number
        if not self.is_placed:
            raise Interrupted(number, begun=self.begun)
        if self.actors[0] is not None:
            self.actors[0].stop.remote()

    def end_early(self) -> None:
        """End as an observer wishes: with a snapshot, as soon as the stages run."""
        self.ends_early = True
        if self.is_placed and self.actors[0] is not None:
            self.actors[0].stop.remote()

    def close(self) -> None:
        """End all actors; Ray gives their resources back."""
        for rank in range(len(self.actors)):
            self._dismiss(rank)

    def _gather(self, number: int) -> None:
        """Every stage in its place and ready, and where they meet."""
        if self.is_placed:
            self.is_placed, self.begun = False, True
            if self.stop_signal:  # it came between two attempts
                self.stop(self.stop_signal)
            check_node()
        size = len(self.actors)
        self.actors = [actor or self._make(rank) for rank, actor in enumerate(self.actors)]
        ready = [
            a.prepare.remote(World(r, size, 0, number, local_size=1), self.run, self.data)
            for r, a in enumerate(self.actors)
        ]
        deadline = time.monotonic() + self.options.start_timeout.total_seconds()
        while len(ray.wait(ready, num_returns=size, timeout=POLL_SECONDS)[0]) < size and time.monotonic() < deadline:
            check_own_ray()
            if self.gcs.lost:
                raise self.gcs.lost_error()
        try:
            self.actor_infos = ray.get(ready, timeout=POLL_SECONDS)
            self.meeting = self._meeting()
        except GetTimeoutError:
            raise self._late_error(ready) from None
        except RayActorError as error:
            self._dismiss_unfit(set(range(size)))
            raise AttemptLost(
                StageLostError("a worker died while it started", got=brief_of(error)), [brief_of(error)]
            ) from error
        check_actor_infos(self.actor_infos, self.run)

    def _meeting(self) -> Address | Any:
        """The store in which this attempt's ranks meet; what an earlier attempt left is in another one."""
        if self.options.direct:
            wait = self.options.start_timeout.total_seconds()
            return tuple(ray.get(self.actors[0].host_store.remote(), timeout=wait))
        return ray.remote(KeyValueActor).options(num_cpus=0).remote()

    def _late_error(self, ready: list[Any]) -> BaseException:
        """The error for workers that do not get ready: there is no room for them any more, or they have it, and are
        silent; then others are made in their place."""
        size = len(self.actors)
        if placement_group_table(self.group)["state"] != "CREATED":
            return no_room_error(self.options, size)
        here, _ = ray.wait(ready, num_returns=size, timeout=0)
        late = [rank for rank, answer in enumerate(ready) if answer not in here] or [0]
        for rank in late:
            self._dismiss(rank)
        error = StageLostError(
            f"worker {' and '.join(map(str, late))} did not get ready",
            expected=f"an answer within {self.options.start_timeout.total_seconds():g} s",
            got="silence, though there is room",
            remedy="look for what has stopped the process, or raise "
            f"{setting('ray.placement_timeout')} where its node takes longer to import torch",
        )
        return AttemptLost(error, [brief_of(error)])

    def _make(self, rank: int) -> Any:
        need = needs(self.options, len(self.actors))
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank)
        options = {
            "num_cpus": need["CPU"],
            "num_gpus": need.get("GPU", 0),
            "max_concurrency": CONCURRENCY,
            "scheduling_strategy": place,
        }
        return ray.remote(WorkerActor).options(**options).remote(rank, os.getcwd())

    def _watch(self, runs: dict[Any, int], observer: Observer) -> dict[int, BaseException]:
        """Wait until every worker has ended, or GRACE seconds after the first failed; return the errors by rank."""
        errors: dict[int, BaseException] = {}
        deadline: float | None = None
        events = {actor.events.remote(): rank for rank, actor in enumerate(self.actors)}
        beats = Heartbeats(self.options.timeout)
        while runs or (events and not errors):
            check_own_ray()
            ready, _ = ray.wait(
                [*runs, *events], timeout=POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            )
            if not ready and deadline is not None:  # the grace is over: whoever is left is ended below
                break
            if hung := beats.missed({rank: self.actors[rank] for rank in runs.values()}):
                errors |= {rank: hung_error(rank, self.actor_infos[rank], beats) for rank in hung}
                deadline = deadline or time.monotonic() + GRACE
                runs = {run: rank for run, rank in runs.items() if rank not in hung}
                self._end(hung)
            events = {asked: rank for asked, rank in events.items() if self.actors[rank] is not None}
            if self.gcs.lost and deadline is None:
                self.end_early()
                deadline = time.monotonic() + GRACE
            if beats.stop_signal and not self.stop_signal:
                self.stop(beats.stop_signal)
                say_stopping(beats.stop_signal)
            if not ready or ready[0] not in (*runs, *events):
                continue
            if ready[0] in events:
                rank = events.pop(ready[0])
                if more := self._listen(ready[0], rank, observer):
                    events[more] = rank
                continue
            rank = runs.pop(ready[0])
            try:
                ray.get(ready[0])
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                errors[rank] = with_place(cause, rank, self.actor_infos[rank], beats)
                deadline = deadline or time.monotonic() + GRACE
        hung = StageLostError("a worker did not end after another had failed", expected=f"an end within {GRACE:g} s")
        for rank in runs.values():
            self._dismiss(rank)
        return errors | dict.fromkeys(runs.values(), hung)

    def _listen(self, events: Any, rank: int, observer: Observer) -> Any:
        """Pass on a stage's notes, and the last one's events, and ask for more; None when there are no more."""
        try:
            heard = ray.get(events)
        except RayError:  # its `run` says more
            return None
        for event in heard:
            if event is not None and event["event"] == NOTE:
                (failure if event["failed"] else note)(event["text"])
            elif event is not None and rank == len(self.actors) - 1:
                observer(from_json(event))
        return None if heard[-1] is None else self.actors[rank].events.remote()

    def _dismiss_unfit(self, ranks: set[int]) -> None:
        """Those that are dead, do not answer, or cannot begin again make room for new ones."""
        if all(self.actors[rank] is None for rank in ranks):
            return
        asked = {rank: self.actors[rank].reusable.remote() for rank in ranks if self.actors[rank] is not None}
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=GRACE)
        for rank, answer in asked.items():
            if answer not in ready or not _yes(answer):
                self._dismiss(rank)

    def _end(self, hung: list[int]) -> None:
        """End processes that do not answer: Ray asks them to end, which they may not hear."""
        node = ray.get_runtime_context().get_node_id()
        here = [self.actor_infos[rank].pid for rank in hung if self.actor_infos[rank].node == node]
        # a stopped process writes its stacks only when it goes on, and then needs a moment for it
        for pid, number in [(pid, number) for pid in here for number in (STACK, signal.SIGCONT)]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        time.sleep(STACK_SECONDS if here else 0)
        for rank in hung:
            self._dismiss(rank)
        for pid in here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _dismiss(self, rank: int) -> None:
        actor, self.actors[rank] = self.actors[rank], None
        if actor is not None and self.gcs.lost:
            ray.wait([actor.leave.remote()], timeout=LEAVE)
        elif actor is not None:
            ray.kill(actor)


def _yes(answer: Any) -> bool:
    try:
        return ray.get(answer)
    except RayError:
        return False
