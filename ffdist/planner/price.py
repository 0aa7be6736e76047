"""The price of a plan: each worker's and each stage's part of a batch, and the time that no batch can take less
than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum, lcm

from ffdist.errors import ConfigError, setting
from ffdist.plan import Plan, PlanStage
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import PlanCosts, costs_of
from ffdist.planner.profile import Profile


@dataclass(frozen=True)
class WorkerPrice:
    """One worker in each batch."""

    busy: float
    """Seconds of computing, sending and receiving included where they take a CPU's time."""
    out: float
    """Seconds that its link carries what it sends."""
    back: float
    """Seconds that its link carries what it gets."""
    cycle: float
    """Seconds from a shared block's start to the end of its exchange, of the block with the most."""
    memory: float
    """Bytes, at most."""

    @property
    def seconds(self) -> float:
        """The least that a batch can take, by this worker."""
        return max(self.busy, self.out, self.back, self.cycle)


@dataclass(frozen=True)
class StagePrice:
    """One stage in each batch."""

    stage: PlanStage
    busy: float
    """Seconds of its worker with the most to do here."""
    idle: float
    """The share of its workers' time, on average, in which they have nothing to do, in other stages either."""
    memory: float
    """Bytes of its worker with the most."""
    sent: float
    """Bytes to the next stage's workers, of all lanes that change the worker."""
    exchanged: float
    """Bytes of gradients and weights that each of its workers sends; by batch, of all that is handed on."""


@dataclass(frozen=True)
class Price:
    """A plan on a cluster."""

    plan: Plan
    devices: tuple[int, ...]
    """The number of each worker's device in the cluster."""
    batch: int
    workers: tuple[WorkerPrice, ...]
    stages: tuple[StagePrice, ...]
    seconds: float
    """The seconds of a batch, in the steady state: the most that a worker is busy, its link carries, or a shared block
    waits; and all their computing together over the cores that they share."""
    bounded: bool = False
    """Whether the search for it left out others of its kinds, as there are too many."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.batch / self.seconds

    @property
    def memory(self) -> float:
        """Bytes of the worker with the most."""
        return max(worker.memory for worker in self.workers)


def price(profile: Profile, cluster: Cluster, plan: Plan, devices: Sequence[int] | None = None) -> Price:
    """The price of a plan. devices: of each worker; None: worker i is on device i.

    Raises ConfigError for a plan of other blocks, or of more workers than the cluster has devices.
    """
    plan.check(profile.names)
    if plan.workers > cluster.devices:
        raise ConfigError(
            "the plan has more workers than there are devices",
            where=setting("plan", f"'{plan}'"),
            expected=f"at most {cluster.devices}",
            got=plan.workers,
        )
    there = tuple(range(plan.workers) if devices is None else devices)
    costs, edges = costs_of(profile, cluster, plan.lanes), bounds(plan)
    speeds = [cluster.speed(device) for device in there]
    sums = [_Sum() for _ in there]
    for index, (stage, (i, j)) in enumerate(zip(plan.stages, edges, strict=True)):
        following = plan.stages[index + 1] if index + 1 < len(plan.stages) else None
        for share in stage.shares:
            speed = speeds[share.worker]
            if stage.by_batch:
                sums[share.worker].compute_by_batch(costs, i, j, len(stage.shares), speed)
            else:
                sums[share.worker].compute(costs, i, j, len(share.lanes), len(stage.shares), speed)
        for (here, to), share_of_batch in crossings(stage, following):
            sums[here].send(costs, j, share_of_batch)
            sums[to].receive(costs, j, share_of_batch)
    workers = tuple(each.price(costs) for each in sums)
    seconds = max(worker.seconds for worker in workers)
    if cluster.cores is not None:
        seconds = max(seconds, fsum(worker.busy for worker in workers) / cluster.cores)  # the same in any order
    stages = tuple(stage_price(costs, plan, index, ends, workers, speeds, seconds) for index, ends in enumerate(edges))
    return Price(plan, there, profile.batch, workers, stages, seconds)


def numbered(profile: Profile, cluster: Cluster, plan: Plan, devices: Sequence[int]) -> Price:
    """The price of the plan whose workers are numbered as their devices are: where all have work, worker i is on
    device i. devices: of each worker of `plan`."""
    ordered = sorted(devices)
    rank = {device: worker for worker, device in enumerate(ordered)}
    return price(profile, cluster, plan.renumbered([rank[device] for device in devices]), ordered)


def bounds(plan: Plan) -> list[tuple[int, int]]:
    """Each stage's first block, and the first one after it."""
    ends = accumulate(plan.blocks_per_stage)
    return [(end - size, end) for size, end in zip(plan.blocks_per_stage, ends, strict=True)]


def crossings(stage: PlanStage, following: PlanStage | None) -> Iterator[tuple[tuple[int, int], float]]:
    """The pairs of workers of which one sends a lane to the other, with the share of the batches in which it does."""
    if following is None:
        return
    orders = lcm(stage.batch_stride, following.batch_stride)
    for order in range(orders):
        for here, there in zip(stage.workers_of_lanes(order), following.workers_of_lanes(order), strict=True):
            if here != there:
                yield (here, there), 1 / orders


def stage_price(
    costs: PlanCosts,
    plan: Plan,
    index: int,
    ends: tuple[int, int],
    workers: tuple[WorkerPrice, ...],
    speed_of: Sequence[float],
    seconds: float,
) -> StagePrice:
    """One stage's part of a plan's price. ends: its first block, and the first one after it. workers: the prices of
    all; speed_of: the speeds of all; seconds: of a batch."""
    (i, j), stage, many = ends, plan.stages[index], len(plan.stages[index].shares)
    following = plan.stages[index + 1] if index + 1 < len(plan.stages) else None
    moved = sum(share_of_batch for _, share_of_batch in crossings(stage, following))
    speeds = [speed_of[share.worker] for share in stage.shares]
    if stage.by_batch:
        busy = [costs.by_batch_busy(i, j, many, speed) for speed in speeds]
        exchanged = costs.state(i, j) / many
    else:
        lanes = [len(share.lanes) for share in stage.shares]
        busy = [costs.busy(i, j, each, many, speed) for each, speed in zip(lanes, speeds, strict=True)]
        exchanged = costs.exchanged(i, j, many)
    idle = [1 - workers[worker].busy / seconds for worker in stage.workers]
    memory = max(workers[worker].memory for worker in stage.workers)
    return StagePrice(stage, max(busy), sum(idle) / many, memory, moved * costs.crossing[j], exchanged)


class _Sum:
    """A worker's loads, added up."""

    def __init__(self) -> None:
        self.busy = 0.0
        self.out = 0.0
        self.back = 0.0
        self.cycle = 0.0
        self.memory = 0.0
        self.graph = 0.0

    def compute(self, costs: PlanCosts, i: int, j: int, lanes: int, workers: int, speed: float) -> None:
        self.busy += costs.busy(i, j, lanes, workers, speed)
        self.out += costs.exchanged(i, j, workers)
        self.back += costs.exchanged(i, j, workers)
        self.cycle = max(self.cycle, costs.cycle(i, j, lanes, workers, speed))
        self.memory += costs.memory(i, j, lanes, workers)
        self.graph = max(self.graph, costs.largest_graph[i][j - i - 1])

    def compute_by_batch(self, costs: PlanCosts, i: int, j: int, workers: int, speed: float) -> None:
        self.busy += costs.by_batch_busy(i, j, workers, speed)
        self.out += costs.state(i, j) / workers
        self.back += costs.state(i, j) / workers
        self.cycle = max(self.cycle, costs.by_batch_cycle(i, j, speed))
        self.memory += costs.by_batch_memory(i, j)
        self.graph = max(self.graph, costs.largest_graph[i][j - i - 1])

    def send(self, costs: PlanCosts, border: int, share_of_batch: float = 1.0) -> None:
        """A lane over the border before that block."""
        self.out += share_of_batch * costs.crossing[border]
        self.busy += share_of_batch * costs.sending[border]

    def receive(self, costs: PlanCosts, border: int, share_of_batch: float = 1.0) -> None:
        self.back += share_of_batch * costs.crossing[border]
        self.busy += share_of_batch * costs.receiving[border]

    def price(self, costs: PlanCosts) -> WorkerPrice:
        link = costs.cluster.link
        return WorkerPrice(
            self.busy, link.carrying(self.out), link.carrying(self.back), self.cycle, self.memory + self.graph
        )
