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
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ffdist.errors import ConfigError, FfdistError, Interrupted, StageError, StageLostError, TransportError, setting
from ffdist.events import Observer, StagesPlaced, from_json
from ffdist.notes import failure, note
from ffdist.runtime import supervise
from ffdist.runtime.heartbeat import STACK, silence_of
from ffdist.runtime.interrupts import say_stopping
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result, root_cause
from ffdist.runtime.ray_actor import CONCURRENCY, NOTE, ActorInfo, WorkerActor
from ffdist.runtime.ray_cluster import RayOptions, needs, no_room_error
from ffdist.runtime.ray_store import Address, KeyValueActor
from ffdist.runtime.supervise import AttemptLost
from ffdist.runtime.worker_stages import StoppedBeforeStartError
from ffdist.runtime.world import World

POLL_SECONDS = 0.5
"""Seconds from one look for an actor that hangs to the next, which may come that much later once more."""
STACKS = 0.3
"""Seconds that a worker has to write where it is."""
GRACE = 10.0
"""Seconds the other stages have to end by themselves after one has failed."""


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
    stopping: int = 0
    """The signal that told it to stop; 0 where none did."""
    ending: bool = False
    """Whether an observer wants the run to end."""
    is_placed: bool = False
    """Whether every stage has had its place, and was told to run."""

    def attempt(self, number: int, observer: Observer) -> Result:
        """One attempt of the pipeline. Raises AttemptLost where another may help, else what stopped it."""
        self._gather(number)
        observer(StagesPlaced(number, [info._asdict() for info in self.actor_infos]))
        self.is_placed = True
        runs = {actor.run.remote(self.make_job, self.meeting): rank for rank, actor in enumerate(self.actors)}
        if self.stopping:
            self.stop(self.stopping)
        if self.ending:
            self.end_early()
        result = Result()
        errors = self._watch(runs, result.collecting(observer))
        if errors:
            self._dismiss_unfit(set(errors))
            if any(isinstance(error, StoppedBeforeStartError) for error in errors.values()):
                raise Interrupted(self.stopping, begun=number > 0)
            raise error_of_attempt(errors, self.actor_infos)
        return result

    def stop(self, number: int) -> None:
        """End the run early, with a snapshot, as a signal tells. Raises Interrupted where no stage runs yet."""
        self.stopping = number
        if not self.is_placed:
            raise Interrupted(number)
        if self.actors[0] is not None:
            self.actors[0].stop.remote()

    def end_early(self) -> None:
        """End as an observer wishes: with a snapshot, as soon as there is somebody to be told."""
        self.ending = True
        if self.is_placed and self.actors[0] is not None:
            self.actors[0].stop.remote()

    def close(self) -> None:
        """End all actors; Ray gives their resources back."""
        for rank in range(len(self.actors)):
            self._dismiss(rank)

    def _gather(self, number: int) -> None:
        """Every stage in its place and ready, and where they meet."""
        size = len(self.actors)
        self.actors = [actor or self._make(rank) for rank, actor in enumerate(self.actors)]
        ready = [
            a.prepare.remote(World(r, size, 0, number, local_size=1), self.run, self.data)
            for r, a in enumerate(self.actors)
        ]
        try:
            self.actor_infos = ray.get(ready, timeout=self.options.start_timeout.total_seconds())
            self.meeting = self._meeting()
        except GetTimeoutError:
            raise self._late_error(ready) from None
        except RayActorError as error:
            self._dismiss_unfit(set(range(size)))
            raise AttemptLost(
                StageLostError("a worker died while it started", got=brief(error)), [brief(error)]
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
        return AttemptLost(error, [brief(error)])

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
            if beats.stop_signal and not self.stopping:
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
        time.sleep(STACKS if here else 0)
        for rank in hung:
            self._dismiss(rank)
        for pid in here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _dismiss(self, rank: int) -> None:
        actor, self.actors[rank] = self.actors[rank], None
        if actor is not None:
            ray.kill(actor)


class Heartbeats:
    """The actors' signs of life: each is asked how it is, and asked again when it has answered."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.activity: dict[int, str] = {}
        """What each said last that it is at."""
        self.stop_signal = 0
        """The signal that told one of them to stop."""
        self._asked: dict[int, Any] = {}
        self._heard: dict[int, float] = {}
        self._looked = time.monotonic()

    def missed(self, actors: dict[int, Any]) -> list[int]:
        """Those who have not answered for too long."""
        if self.timeout is None or time.monotonic() - self._looked < POLL_SECONDS:
            return []
        now = time.monotonic()
        if now - self._looked > silence_of(self.timeout) / 2:  # this process itself was stopped
            self._heard.clear()
        self._looked = now
        for rank, actor in actors.items():
            self._heard.setdefault(rank, now)
            if rank not in self._asked:
                self._asked[rank] = actor.beat.remote()
        answered, _ = ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=0)
        for rank, answer in list(self._asked.items()):
            if answer in answered:
                del self._asked[rank]
                self._heard[rank] = now
                with suppress(RayError):  # it has died, as its run will tell
                    self.activity[rank], beat = ray.get(answer)
                    self.stop_signal = self.stop_signal or beat
        return [rank for rank in actors if now - self._heard[rank] > silence_of(self.timeout)]

    def others(self, rank: int) -> list[str]:
        """The activity of each other worker, as it was told last."""
        return [f"worker {other}: {activity}" for other, activity in sorted(self.activity.items()) if other != rank]


def with_place(error: BaseException, rank: int, info: ActorInfo, beats: Heartbeats) -> BaseException:
    """An edge's error with the worker that had it, and what all are at; any other as it is."""
    if not isinstance(error, TransportError):
        return error
    place = f"worker {rank}, process {info.pid} on {info.address}"
    said = [f"this worker: {beats.activity[rank]}"] if rank in beats.activity else []
    parts = [error.details["got"], *said, *beats.others(rank)]
    return error.again(
        where=f"{error.details['where']}; {place}", got="; ".join(str(part) for part in parts if part is not None)
    )


def hung_error(rank: int, info: ActorInfo, beats: Heartbeats) -> StageLostError:
    """The error of an actor that gives no sign of life."""
    return StageLostError(
        f"worker {rank} does not answer",
        where=f"process {info.pid} on {info.address}",
        expected=f"a sign of life within {beats.timeout:g} s",
        got="; ".join([f"silence; last it was {beats.activity.get(rank, 'starting')}", *beats.others(rank)]),
        remedy="look for what has stopped the process, or what cuts its host off; or raise "
        f"{setting('run.timeout')} where the machine has too much to do",
    )


def _yes(answer: Any) -> bool:
    try:
        return ray.get(answer)
    except RayError:
        return False


def error_of_attempt(errors: dict[int, BaseException], infos: list[ActorInfo]) -> BaseException:
    """AttemptLost where stages died or lost one another; else the job's own error, which would come again."""
    someone_died = any(isinstance(error, RayActorError) for error in errors.values())
    losses = (RayActorError, TransportError, StageLostError, dist.DistError)
    own = [
        error
        for error in errors.values()
        if not isinstance(error, losses) and (isinstance(error, FfdistError) or not someone_died)
    ]
    if own:
        cause = root_cause(own)
        return start_error(cause) if isinstance(cause, RayError) else cause
    dead = {rank: error for rank, error in errors.items() if isinstance(error, RayActorError)} or errors
    reasons = [
        f"worker {rank} on {infos[rank].address} (process {infos[rank].pid}): {brief(error)}"
        for rank, error in sorted(dead.items())
    ]
    cause = root_cause(list(dead.values()))
    if not isinstance(cause, FfdistError):
        cause = StageLostError("a worker died", where=reasons[0].split(":")[0], got=brief(cause))
    return AttemptLost(cause, reasons)


def start_error(error: RayError) -> StageError:
    """The error for what Ray could not hand to an actor: most often a module of the user's that its node does not
    have."""
    return StageError(
        "a worker could not start",
        got=brief(error),
        remedy="every node needs ffdist and your modules: ray job submit --working-dir .",
    )


def brief(error: BaseException) -> str:
    """Describe a failure in a line."""
    if isinstance(error, FfdistError):
        return supervise.brief(error)
    lines = str(error).split(" Some common causes")[0].strip().splitlines()
    return lines[-1].strip() if isinstance(error, RayError) and lines else (lines or [repr(error)])[0]


def check_actor_infos(infos: list[ActorInfo], run: Path | None) -> None:
    """Raises ConfigError unless all stages run the same versions, and see the same run folder and data."""
    first = infos[0]
    for rank, here in enumerate(infos):
        where = f"worker {rank} on {here.address}"
        if here.versions != first.versions:
            raise ConfigError(
                "the nodes differ in versions",
                where=where,
                expected=first.versions,
                got=here.versions,
                remedy="install the same on every node",
            )
        if here.data != first.data:
            raise ConfigError(
                "the nodes have different data",
                where=where,
                expected=f"manifest {first.data}",
                got=f"manifest {here.data}",
                remedy="copy the data set anew, or share it",
            )
        if run and (here.run is None or here.run != first.run):
            raise ConfigError(
                "the nodes do not share the run folder",
                where=f"{where}, {run}",
                expected="the settings that the driver wrote",
                got=(here.run and "others") or "none",
                remedy=f"name an {setting('run.out')} on a disk that every node mounts",
            )
