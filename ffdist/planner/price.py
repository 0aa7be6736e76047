"""The price of a plan: each worker's and each stage's part of a batch, and the time that no batch can take less
than."""

from __future__ import annotations

from dataclasses import dataclass

from ffdist.errors import ConfigError, setting
from ffdist.plan import Plan, PlanStage
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import PlanCosts
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
    """Bytes of gradients and weights that each of its workers sends."""


@dataclass(frozen=True)
class Price:
    """A plan on a cluster."""

    plan: Plan
    batch: int
    workers: tuple[WorkerPrice, ...]
    stages: tuple[StagePrice, ...]
    seconds: float
    """The seconds of a batch, in the steady state: the most that a worker is busy, its link carries, or a shared block
    waits; and all their computing together over the cores that they share."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.batch / self.seconds

    @property
    def memory(self) -> float:
        """Bytes of the worker with the most."""
        return max(worker.memory for worker in self.workers)


def price(profile: Profile, cluster: Cluster, plan: Plan) -> Price:
    """Raises ConfigError for a plan of other blocks, or of more workers than the cluster has."""
    plan.check(profile.names)
    if plan.workers > cluster.devices:
        raise ConfigError(
            "the plan has more workers than there are devices",
            where=setting("plan", f"'{plan}'"),
            expected=f"at most {cluster.devices}",
            got=plan.workers,
        )
    costs, edges = PlanCosts(profile, cluster, plan.lanes), bounds(plan)
    sums = [_Sum() for _ in range(plan.workers)]
    for index, (stage, (i, j)) in enumerate(zip(plan.stages, edges, strict=True)):
        behind = plan.stages[index + 1] if index + 1 < len(plan.stages) else None
        for share in stage.shares:
            sums[share.worker].compute(costs, i, j, len(share.lanes), len(stage.shares), cluster.speed(share.worker))
        for lane in range(plan.lanes):
            here = stage.worker_of(lane)
            there = behind.worker_of(lane) if behind else here
            if here != there:
                sums[here].send(costs, j)
                sums[there].receive(costs, j)
    workers = tuple(each.price(costs) for each in sums)
    seconds = max(worker.seconds for worker in workers)
    if cluster.cores is not None:
        seconds = max(seconds, sum(worker.busy for worker in workers) / cluster.cores)
    stages = tuple(stage_price(costs, plan, index, i, j, workers, seconds) for index, (i, j) in enumerate(edges))
    return Price(plan, profile.batch, workers, stages, seconds)


def bounds(plan: Plan) -> list[tuple[int, int]]:
    """Each stage's first block, and the first one behind it."""
    ends = [sum(plan.blocks_per_stage[: n + 1]) for n in range(len(plan.blocks_per_stage))]
    return [(end - size, end) for size, end in zip(plan.blocks_per_stage, ends, strict=True)]


def stage_price(
    costs: PlanCosts, plan: Plan, index: int, i: int, j: int, workers: tuple[WorkerPrice, ...], seconds: float
) -> StagePrice:
    stage, many = plan.stages[index], len(plan.stages[index].shares)
    moved = 0
    if index + 1 < len(plan.stages):
        behind = plan.stages[index + 1]
        moved = sum(stage.worker_of(lane) != behind.worker_of(lane) for lane in range(plan.lanes))
    busy = [costs.busy(i, j, len(share.lanes), many, costs.cluster.speed(share.worker)) for share in stage.shares]
    idle = [1 - workers[worker].busy / seconds for worker in stage.workers]
    memory = max(workers[worker].memory for worker in stage.workers)
    return StagePrice(
        stage, max(busy), sum(idle) / many, memory, moved * costs.crossing[j], costs.exchanged(i, j, many)
    )


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

    def send(self, costs: PlanCosts, border: int) -> None:
        """A lane over the border before that block."""
        self.out += costs.crossing[border]
        self.busy += costs.sending[border]

    def receive(self, costs: PlanCosts, border: int) -> None:
        self.back += costs.crossing[border]
        self.busy += costs.receiving[border]

    def price(self, costs: PlanCosts) -> WorkerPrice:
        link = costs.cluster.link
        return WorkerPrice(
            self.busy, link.carrying(self.out), link.carrying(self.back), self.cycle, self.memory + self.graph
        )
