"""A worker's ends of a run's edges, as its stages, its source and the sink use them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING

from ffdist.pipeline.edge import FromEdge, ToEdge
from ffdist.pipeline.route import FanIn, FanOut
from ffdist.pipeline.stage_group import StageGroup
from ffdist.plan import Plan
from ffdist.runtime.routes import Route
from ffdist.transport import Receiver, Sender

if TYPE_CHECKING:
    from ffdist.runtime.edges import EdgeEnds


class WorkerEdges:
    """The edges that begin or end at one worker, by what they are for."""

    def __init__(self, plan: Plan, worker: int, routes: Sequence[Route], ends: EdgeEnds) -> None:
        """routes: of the whole run. ends: this worker's, open."""
        self.plan = plan
        self.worker = worker
        self.routes = [route for route in routes if worker in (route.source, route.target)]
        self.ends = ends
        self.incoming: dict[str, FromEdge] = {}
        """What comes by each route, for all lanes on it."""
        self.outgoing: dict[str, ToEdge] = {}

    def waits(self) -> list[str]:
        """Say what is waited for at the moment."""
        waits = [f"waits for a message by edge {name}" for name, edge in self.incoming.items() if edge.awaiting]
        return waits + [f"sends by edge {name}" for name, edge in self.outgoing.items() if edge.awaiting]

    def inbox(self, stage: int, lanes: range) -> FanIn:
        """Messages that the workers of the stage before send."""
        before, orders = self.plan.stages[stage - 1], self.plan.stages[stage].orders_of(self.worker)
        by_source = {route.source: route for route in self._to_here("stages", stage - 1)}
        by_batch: list[dict[int, FromEdge]] = [{} for _ in range(before.batch_stride)]
        for order in orders[: before.batch_stride]:
            by_batch[order % before.batch_stride] = {
                lane: self._from(by_source[before.worker_of(lane, order)]) for lane in lanes
            }
        return FanIn(by_batch, orders)

    def outbox(self, stage: int, lanes: range) -> FanOut:
        """The outbox to the workers of the next stage."""
        following = self.plan.stages[stage + 1]
        out = {route.target: self._to(route) for route in self._from_here("stages", stage)}
        orders = range(following.batch_stride)
        return FanOut([{lane: to for lane in lanes if (to := out.get(following.worker_of(lane, n)))} for n in orders])

    def to_sink(self) -> ToEdge:
        """The outbox to the worker that has the sink, where it takes what several workers send."""
        (route,) = self._from_here("sink")
        return self._to(route)

    def sink_inbox(self) -> FanIn:
        """Messages that the workers of the last stage send to the sink."""
        last = self.plan.stages[-1]
        by_source = {route.source: self._from(route) for route in self._to_here("sink")}
        lanes, orders = range(self.plan.lanes), range(last.batch_stride)
        return FanIn([{lane: by_source[last.worker_of(lane, order)] for lane in lanes} for order in orders])

    def stage_group(self, stage: int, stop: Event | None) -> StageGroup | None:
        """The workers of a stage; None where it has one. stop: as of `StageGroup`."""
        mine = self.plan.stages[stage]
        if len(mine.shares) == 1:
            return None
        senders = {route.target: self.ends.senders[route.name] for route in self._from_here("gradients", stage)}
        receivers = {route.source: self.ends.receivers[route.name] for route in self._to_here("gradients", stage)}
        return StageGroup(self.worker, mine.shares, senders, receivers, stop, by_batch=mine.by_batch)

    def score_receiver(self) -> Receiver | None:
        """The source's end of the edge back from the sink."""
        return next((self.ends.receivers[route.name] for route in self._to_here("back")), None)

    def score_senders(self) -> list[Sender]:
        """The sink's ends of the edges back to the sources."""
        return [self.ends.senders[route.name] for route in self._from_here("back")]

    def _from_here(self, purpose: str, stage: int | None = None) -> list[Route]:
        return [route for route in self._routes(purpose, stage) if route.source == self.worker]

    def _to_here(self, purpose: str, stage: int | None = None) -> list[Route]:
        return [route for route in self._routes(purpose, stage) if route.target == self.worker]

    def _routes(self, purpose: str, stage: int | None) -> list[Route]:
        return [route for route in self.routes if route.purpose == purpose and stage in (None, route.stage)]

    def _from(self, route: Route) -> FromEdge:
        return self.incoming.setdefault(route.name, FromEdge(self.ends.receivers[route.name]))

    def _to(self, route: Route) -> ToEdge:
        return self.outgoing.setdefault(route.name, ToEdge(self.ends.senders[route.name]))
