"""Every edge that a plan needs, in one order that all workers know: so they open without waiting crosswise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ffdist.pipeline.bucket import MAX_BUCKETS, SPARE_FRAMES
from ffdist.pipeline.by_batch import MAX_STATE_FRAMES, OTHER_FRAMES
from ffdist.plan import Plan

Purpose = Literal["stages", "gradients", "sink", "back"]


@dataclass(frozen=True, slots=True)
class Route:
    """One edge of a run."""

    name: str
    """Unique in the run; appears in every error."""
    source: int
    """The worker that sends."""
    target: int
    """The worker that receives."""
    depth: int
    purpose: Purpose
    stage: int
    """The stage that sends on it; of the edge back to the source, the last."""

    @property
    def within(self) -> bool:
        """True if both ends are one worker's."""
        return self.source == self.target


def routes_of(plan: Plan, queue: int, lag: int = 0) -> list[Route]:
    """queue: depth of edges between stages. lag: batches on the edge back from the sink to the source, 0 for none."""
    routes = [route for stage in range(len(plan.stages)) for route in routes_of_stage(plan, stage, queue)]
    last, sink = len(plan.stages) - 1, plan.workers - 1
    if not sink_is_on_last_stage(plan):
        routes += [
            Route(f"sink {worker}", worker, sink, queue, "sink", last) for worker in sorted(plan.stages[-1].workers)
        ]
    if lag:
        first = plan.stages[0].workers
        routes += [
            Route("back" if len(first) == 1 else f"back {worker}", sink, worker, lag, "back", last) for worker in first
        ]
    return routes


def routes_of_stage(plan: Plan, stage: int, queue: int) -> list[Route]:
    """The routes between the workers of a stage, both ways, and those to the next stage."""
    workers = plan.stages[stage].workers
    routes: list[Route] = []
    for one in workers:
        for other in (other for other in workers if other != one):
            what = "states" if plan.stages[stage].by_batch else "gradients"
            name = f"{what} of stage {stage}, {one} to {other}"
            many = len(plan.stages[stage].blocks)
            if plan.stages[stage].by_batch:
                depth = min(MAX_STATE_FRAMES, many) + OTHER_FRAMES
            else:
                depth = min(MAX_BUCKETS, many) + SPARE_FRAMES
            routes.append(Route(name, one, other, depth, "gradients", stage))
    if stage + 1 < len(plan.stages):
        alone = len(workers) == len(plan.stages[stage + 1].workers) == 1
        for one, other in plan.routes(stage):
            name = f"{stage}-{stage + 1}" + ("" if alone else f", {one} to {other}")
            routes.append(Route(name, one, other, queue, "stages", stage))
    return routes


def sink_is_on_last_stage(plan: Plan) -> bool:
    """True if the last worker, where the stream ends, is the only one of the last stage."""
    return plan.stages[-1].workers == [plan.workers - 1]


def max_in_flight(plan: Plan, queue: int) -> int:
    """Batches, at most, that have left the source and have not come back from the sink."""
    last = len(plan.stages) - 1
    held = sum(stage.batch_stride for stage in plan.stages)
    strides = [max(one.batch_stride, other.batch_stride) for one, other in pairwise(plan.stages)]
    strides += [plan.stages[last].batch_stride] * (not sink_is_on_last_stage(plan))
    return held + sum(strides) * queue
