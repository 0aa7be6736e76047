"""The fastest plan whose stages have a worker each, or several that take whole batches in turn.

With t seconds a batch, a stage of blocks i..j needs the fewest workers W with busy(i, j) / W <= t, where no block's own
cycle and no link takes longer (`PlanCosts.by_batch_cycle`). The fewest workers for all blocks before j are then the
least of those before i and of i..j, over i; and the least t is found by bisection. Each worker serves in one stage
alone. Where workers share cores, the least work of all is looked for likewise, by each number of workers: t is at least
that over the cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import Array, PlanCosts, costs_of, running_max
from ffdist.planner.price import Price, numbered, price
from ffdist.planner.profile import Profile

CLOSE = 1e-4
"""How near the found time is to the least, as a share of it."""
TINY = 1e-12
"""What rounding may come to."""


class WorkersOfStage(NamedTuple):
    """Blocks i..j by so many workers."""

    i: int
    j: int
    workers: int


def best_by_batch(
    profile: Profile, cluster: Cluster, lanes: int = 1, below: float = inf, *, exactly: bool = False
) -> Price | None:
    """The plan of this kind with the least price, of at most `cluster.devices` workers; None where none keeps to the
    memory limit, and where one worker alone is no slower. below: seconds that it may take at most, before its price is
    known. exactly: every device has work.

    Devices of unequal speed are taken to be as slow as the slowest of them, the fastest ones alone where that is
    better; the price is with their own speeds.
    """
    in_order = cluster.fastest(cluster.devices)
    counts = [cluster.devices] if exactly else [cluster.devices, *slower_than_all_before(cluster.only(in_order))]
    prices: list[Price] = []
    for count in counts:
        search = ByBatchSearch(profile, cluster.only(in_order[:count]), lanes)
        if (found := search.best(below)) is not None:
            plan = search.plan(search.with_all(found) if exactly else found)
            prices.append(numbered(profile, cluster, plan, in_order[: plan.workers]))
    limit = cluster.most_memory
    return min((each for each in prices if each.memory <= limit), key=lambda each: each.seconds, default=None)


def slower_than_all_before(cluster: Cluster) -> list[int]:
    """The numbers of those devices that are slower than each one before them."""
    slowest = accumulate(map(cluster.speed, range(cluster.devices)), min)
    return [worker for worker, (before, now) in enumerate(pairwise(slowest), start=1) if now < before]


class StageNeeds(NamedTuple):
    """Seconds of a batch that blocks i..j need, at [i, j]."""

    alone: Array
    """By one worker; infinite where it has not the memory."""
    work: Array
    """What it computes, sends and gets in them."""
    cycle: Array
    """From a block's batch to its next one, where several workers share the batches; infinite likewise."""
    busy: Array
    """The work of several workers together."""
    carrying: Array
    """The same of their links."""

    @classmethod
    def of(cls, costs: PlanCosts, speed: float, limit: float) -> StageNeeds:
        """The needs of devices of this speed that may hold so many bytes each."""
        link, lanes = costs.cluster.link, costs.lanes
        lane, add = costs.totals("lane"), costs.totals("add")
        borders = lanes * (np.array(costs.receiving)[:-1, None] + np.array(costs.sending)[None, :])
        computing = (lanes * (lane + add) + costs.totals("step") + costs.totals("after_lanes") - add) / speed
        state = costs.totals("weights") + costs.totals("moments")
        crossing = np.array(costs.crossing)
        crossing = lanes * np.maximum(crossing[:-1, None], crossing[None, :])
        work = computing + borders
        alone = np.maximum(work, crossing * link.carrying(1.0))
        longest = running_max(np.array([costs.by_batch_longest(block, speed) for block in range(costs.size)]))
        cycle = (lanes - 1) * lane / speed + longest
        blocks = np.arange(costs.size + 1)[None, :] - np.arange(costs.size)[:, None]
        handing = costs.totals("handover") / speed + state * (link.sender + link.receiver) + 2 * blocks * link.message
        if isfinite(limit):
            one = np.ones(1, int)
            memory = costs.memories(lanes * one, one)[:, :, 0]
            alone[memory > limit] = inf
            cycle[memory + costs.by_batch_slots() > limit] = inf
        return cls(alone, work, cycle, work + handing, (state + crossing) * link.carrying(1.0))

    def workers(self, seconds: float) -> Array:
        """The fewest workers that they need; infinite where no number is enough."""
        several = np.ceil(np.maximum(self.busy, self.carrying) / seconds - CLOSE)
        return np.where(self.alone <= seconds, 1.0, np.where(self.cycle > seconds, inf, np.maximum(2.0, several)))


class ByBatchSearch:
    """The search on one cluster, with one number of lanes."""

    def __init__(self, profile: Profile, cluster: Cluster, lanes: int) -> None:
        self.profile = profile
        self.cluster = cluster
        self.lanes = lanes
        self.costs = costs_of(profile, cluster, lanes)
        self.speed = min((cluster.speed(worker) for worker in range(cluster.devices)), default=1.0)
        self.limit = cluster.most_memory
        self.needs = StageNeeds.of(self.costs, self.speed, self.limit)

    def best(self, below: float = inf) -> list[WorkersOfStage] | None:
        """The stages that take the least time; None where that is more than `below`."""
        if isfinite(below) and not self.within(below):
            return None
        size = self.costs.size
        whole = self.compute_seconds(0, size)
        high = whole if self.within(whole) else self.longest()
        best = self.within(high)
        if best is None:
            return None
        low = 0.0
        while high - low > CLOSE * high:
            middle = (low + high) / 2
            if (found := self.within(middle)) is None:
                low = middle
            else:
                best, high = found, min(middle, self.seconds(found))
        return best

    def longest(self) -> float:
        """Seconds in which any stages that fit into memory are done."""
        size = self.costs.size
        return float(2 * (sum(self.needs.busy[i, i + 1] for i in range(size)) + self.needs.carrying.max()))

    def within(self, seconds: float) -> list[WorkersOfStage] | None:
        """Stages of no more workers than there are, none of which takes longer, nor all of them over their cores."""
        size = self.costs.size
        workers = self.needs.workers(seconds)
        if self.cluster.cores is not None:
            return self._on_cores(seconds, workers)
        fewest, first = np.zeros(size + 1), [0] * (size + 1)
        for j in range(1, size + 1):
            before = fewest[:j] + workers[:j, j]
            first[j] = int(before.argmin())
            fewest[j] = before[first[j]]
        if fewest[size] > self.cluster.devices:
            return None
        stages: list[WorkersOfStage] = []
        j = size
        while j:
            stages.append(WorkersOfStage(first[j], j, int(workers[first[j], j])))
            j = first[j]
        return stages[::-1]

    def _on_cores(self, seconds: float, workers: Array) -> list[WorkersOfStage] | None:
        """The same of stages of so many workers each, where these share cores."""
        size, most = self.costs.size, self.cluster.devices
        works = np.where(workers > 1, self.needs.busy, self.needs.work)
        least = np.full((size + 1, most + 2), inf)
        """The least work of the blocks before each one by each number of workers; in the last column by none."""
        least[0, 0] = 0.0
        first = np.zeros((size + 1, most + 1), int)
        number = np.arange(most + 1)
        for j in range(1, size + 1):
            own = np.minimum(workers[:j, j], most + 1)[:, None]  # it may be infinite
            before = np.where(number < own, most + 1, number - own).astype(int)
            work = np.take_along_axis(least[:j], before, axis=1) + works[:j, j, None]
            first[j] = work.argmin(axis=0)
            least[j, :-1] = work.min(axis=0)
        in_time = np.flatnonzero(least[size, :-1] <= (self.cluster.cores or inf) * seconds * (1 + TINY))
        if not in_time.size:
            return None
        stages: list[WorkersOfStage] = []
        j, left = size, int(in_time[0])
        while j:
            i = int(first[j, left])
            stages.append(WorkersOfStage(i, j, int(workers[i, j])))
            j, left = i, left - stages[-1].workers
        return stages[::-1]

    def seconds(self, stages: Sequence[WorkersOfStage]) -> float:
        """Seconds of a batch."""
        return price(self.profile, self.cluster_alike(), self.plan(stages)).seconds

    def cluster_alike(self) -> Cluster:
        """The cluster with equal devices."""
        return Cluster(
            self.cluster.devices,
            self.cluster.link,
            (self.speed,) * self.cluster.devices,
            queue=self.cluster.queue,
            cores=self.cluster.cores,
            exchange=self.cluster.exchange,
        )

    def compute_seconds(self, i: int, j: int) -> float:
        """Seconds of computing a batch by one worker, sending and receiving left out."""
        return self.costs.busy(i, j, self.lanes, 1, self.speed)

    def with_all(self, stages: Sequence[WorkersOfStage]) -> list[WorkersOfStage]:
        """The same with work for every device: each goes where workers have the most to do."""
        grown = list(stages)
        for _ in range(self.cluster.devices - sum(stage.workers for stage in stages)):
            busy = [self.compute_seconds(stage.i, stage.j) / stage.workers for stage in grown]
            place = busy.index(max(busy))
            grown[place] = grown[place]._replace(workers=grown[place].workers + 1)
        return grown

    def plan(self, stages: Sequence[WorkersOfStage]) -> Plan:
        """The plan of these stages, the workers numbered along them."""
        return Plan(self.lanes, tuple(self._stages(stages)))

    def _stages(self, stages: Sequence[WorkersOfStage]) -> Iterator[PlanStage]:
        first = 0
        for i, j, workers in stages:
            shares = tuple(Share(worker, range(self.lanes)) for worker in range(first, first + workers))
            yield PlanStage(tuple(self.profile.names[i:j]), shares, by_batch=workers > 1)
            first += workers
