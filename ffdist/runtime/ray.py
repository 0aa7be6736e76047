"""Stages as actors on a Ray cluster. Ray places and watches them; activations travel past it, as between any processes.

driver   joins the cluster, reserves a place a stage, starts an actor in each, shows what the last one reports
actors   meet in a store that rank 0 hosts, open edges, run the stage loop
a loss   the survivors' edges fail at once and they end; the lost actor is made anew, and the next attempt goes on
         from the last committed snapshot
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ffdist.events import EdgesOpened, Observer, RunEvent, StagesPlaced, stopping
from ffdist.runtime.actor_group import ActorGroup
from ffdist.runtime.interrupts import interrupts
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.ray_cluster import RayOptions, joined, room
from ffdist.runtime.ray_metrics import metered
from ffdist.runtime.ray_own import interrupts_kept
from ffdist.runtime.supervise import note_in, supervise

LOG = "ray.log"
DEFAULT = RayOptions()


def run_ray(
    make_job: Callable[[], Job],
    stages: int,
    observer: Observer,
    *,
    run: Path | None = None,
    data: str = "",
    options: RayOptions = DEFAULT,
) -> Result:
    """Run a job on a Ray cluster, an actor a stage, and pass the last stage's events to `observer`.

    make_job: picklable; called in each actor. run: its folder, on a disk that all nodes share. data: a prepared data
    set's folder, shared or copied to each node. SIGINT or SIGTERM ends the run early, with a snapshot. A lost stage
    takes the run back to its last snapshot, as `supervise` has it. Raises the job's own error, the reason of the last
    loss, or ConfigError for a cluster that does not answer or has no room.
    """
    with joined(options, stages), interrupts_kept(), room(options, stages) as group:
        actors = ActorGroup(make_job, run and run.absolute(), data, options, group, [None] * stages)
        observing = stopping(metered(with_ray_log(run, observer)), actors.end_early)
        with closing(actors), interrupts(actors.stop) as request:
            result = supervise(
                lambda number: actors.attempt(number, observing),
                observing,
                run=run,
                max_restarts=options.max_restarts,
                stopping=lambda: bool(actors.stop_signal) or actors.ends_early,
            )
            result.signal = request.number or actors.stop_signal
            return result


def with_ray_log(run: Path | None, observer: Observer) -> Callable[[RunEvent], None]:
    """`observer`, which also writes RUN/ray.log: on which hosts each attempt's workers run, and which transports their
    edges use."""

    def observe(event: RunEvent) -> None:
        match event:
            case StagesPlaced():
                for rank, worker in enumerate(event.stages):
                    place = f"{worker['address']}, node {worker['node']}, process {worker['pid']}"
                    note_in(run, LOG, f"attempt {event.attempt}: worker {rank} on {place}")
            case EdgesOpened():
                note_in(run, LOG, f"edges: {', '.join(event.transports) or 'none'}")
            case _:
                pass
        observer(event)

    return observe
