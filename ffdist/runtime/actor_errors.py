"""The errors of a run's actors on Ray, in words for its user, and whether another attempt may help."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
from ray.exceptions import RayActorError, RayError

from ffdist.errors import ConfigError, FfdistError, StageError, StageLostError, TransportError, setting
from ffdist.runtime import supervise
from ffdist.runtime.actor_heartbeats import Heartbeats
from ffdist.runtime.outcome import root_cause
from ffdist.runtime.ray_actor import ActorInfo
from ffdist.runtime.supervise import AttemptLost


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
        f"worker {rank} on {infos[rank].address} (process {infos[rank].pid}): {brief_of(error)}"
        for rank, error in sorted(dead.items())
    ]
    cause = root_cause(list(dead.values()))
    if not isinstance(cause, FfdistError):
        cause = StageLostError("a worker died", where=reasons[0].split(":")[0], got=brief_of(cause))
    return AttemptLost(cause, reasons)


def start_error(error: RayError) -> StageError:
    """The error for what Ray could not hand to an actor: most often a module of the user's that its node does not
    have."""
    return StageError(
        "a worker could not start",
        got=brief_of(error),
        remedy="every node needs ffdist and your modules: ray job submit --working-dir .",
    )


def brief_of(error: BaseException) -> str:
    """Describe a failure in a line, one of Ray's without its traceback."""
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
