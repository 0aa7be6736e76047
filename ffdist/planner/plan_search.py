"""The fastest plan of a network on a cluster.

The plans searched: stages of consecutive blocks, and workers in order along them. Lay the parts of all stages (a part:
one lane of one stage) in a row, stage after stage; each worker takes the next run of parts. So a worker has some lanes
at the end of one stage, whole stages, and some lanes at the beginning of the next. Pipelines are among these plans
(every stage one run), data parallelism (one stage), replicas of any part of the network, and a heavy block shared by
those who have lighter ones beside it.

Of all cuts, numbers of workers and shares, the plan is found whose `price` is the least: the largest of what a worker
is busy, its link carries, and a shared block's cycle takes (`planner/cost.py`), and all workers' work over the cores
that they share, under the memory limit. The search asks which plans keep to a time T, by blocks from the first to the
last: of a stage, the worker before takes as many lanes as T leaves it, each next one as many as it can, the last the
rest; what reached the same block with no fewer workers, no less time, traffic, memory and work used is dropped. T is
halved towards the least, then to the found plan's own price until there is none below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import ceil, inf, isfinite
from operator import attrgetter
from typing import NamedTuple

from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import PlanCosts
from ffdist.planner.price import Price, price
from ffdist.planner.profile import Profile

CLOSE = 1e-9
"""Two prices nearer than this are one."""
TINY = 1e-12
"""What rounding may come to."""
COARSE = 1e-3
"""How near the halving comes to the least time, before each found plan's own price is undercut."""
GROWING = (1.01, 1.02, 1.04, 1.08, 1.2, 1.5, *(2.0,) * 12, inf)
"""What the first bound is multiplied by until there is a plan."""
FEW = 8
"""Up to so many lanes, each number that the worker before may take of a stage is tried; of more, the most."""


class PartialPlan(NamedTuple):
    """Blocks up to some border dealt out, and what the last worker has taken on so far."""

    worker: int
    """The last one that has something; -1 for none yet."""
    busy: float
    """Seconds busy of the last worker in each batch."""
    out: float
    """Bytes that its link sends."""
    back: float
    """Bytes that its link gets."""
    memory: float
    """Bytes that it holds, without the graph."""
    graph: float
    """Bytes of its largest block at work."""
    lanes: int
    """The lanes of the last stage, by this worker; its output is sent when it is known who takes it on."""
    before: PartialPlan | None = None
    """The one that this extends."""
    stage: tuple[int, int] = (0, 0)
    """The last stage: its first block, and the first one after it."""
    counts: tuple[int, ...] = ()
    """Lanes of the stage's workers in order; the last is `worker`."""
    spent: float = 0.0
    """Seconds busy of all workers before the last."""

    @property
    def total(self) -> float:
        """Seconds busy of all workers so far."""
        return self.spent + self.busy if self.worker >= 0 else 0.0


LeftBehind = Callable[[int], PartialPlan | None]
"""A plan when so many lanes of its last worker have gone to other workers; None where that takes too long."""
FIRST = PartialPlan(-1, inf, 0.0, 0.0, 0.0, 0.0, 0)


class PlanSearch:
    """The search for one number of lanes.

    shared: whether stages may have several workers, and workers several stages.
    """

    def __init__(self, profile: Profile, cluster: Cluster, lanes: int, *, shared: bool = True) -> None:
        self.profile = profile
        self.cluster = cluster
        self.lanes = lanes
        self.shared = shared
        self.costs = PlanCosts(profile, cluster, lanes)
        self.limit = inf if cluster.memory_limit is None else cluster.memory_limit
        self.fastest = max(cluster.speeds, default=1.0)
        speeds = [cluster.speed(worker) for worker in range(cluster.devices)]
        self.rate = cluster.link.rate if cluster.link.wired else inf
        self.capacity = [sum(speeds[worker:]) for worker in range(cluster.devices + 1)]
        """The capacity of the workers from one on, together."""
        costs = self.costs
        self._most: dict[tuple[float, int, int, int, bool], int] = {}
        self._most_for = inf
        self.most_traffic = lanes * sum(costs.crossing) + 2 * sum(costs.gradients)
        self.low = 0.0
        """A time that no plan keeps to."""
        self.cores = inf if cluster.cores is None else cluster.cores
        self.all_shares = lanes <= FEW and (
            len(set(cluster.speeds)) > 1 or isfinite(self.limit) or isfinite(self.cores)
        )
        """Whether fewer lanes or more workers than a stage needs may serve those after it: the next device is a faster
        one, or has the memory that this one lacks."""

    def least(self, below: float = inf) -> Price | None:
        """The best plan of a price of at most `below`; None where there is none within the memory limit."""
        found = self.near_best(below)
        return found and self.best_from(found)

    def near_best(self, below: float = inf, within: float = COARSE) -> Price | None:
        """A plan that is at most so much slower than the best, as a share of its price."""
        if isfinite(below) and self.within(below) is None:
            return None
        size = self.costs.size
        alone = self.lanes * self.costs.total("lane", 0, size)
        low = alone / self.capacity[0]
        if self.cluster.cores is not None:
            low = max(low, alone / self.cluster.cores)
        found = None
        for times in GROWING:  # a time too short is soon found to be so: few runs keep to it
            found = self.within(min(low * times, below))
            if found or low * times >= below:
                break
            low *= times
        self.low = low
        if found is None:
            return None
        return self.bisect(found, within)

    def bisect(self, found: Price, within: float) -> Price:
        """A plan that is so near to the best, from one that is not."""
        while found.seconds > self.low * (1 + within):
            middle = (self.low + found.seconds) / 2
            better = self.within(middle)
            if better is None or better.seconds >= found.seconds:
                self.low = middle
            else:
                found = better
        return found

    def best_from(self, found: Price) -> Price:
        """The best plan, from one that `near_best` found."""
        found = self.bisect(found, COARSE)
        while better := self.within(found.seconds * (1 - CLOSE)):
            if better.seconds >= found.seconds:
                break
            found = better
        return found

    def within(self, seconds: float, least: str = "seconds") -> Price | None:
        """A plan whose price is no more than that, of several with the least seconds (or memory). None for none."""
        size = self.costs.size
        runs: list[list[PartialPlan]] = [[FIRST], *([] for _ in range(size))]
        for i in range(size):
            for run in runs[i]:
                gone = cache(partial(self.sent, run, border=i, seconds=seconds))
                for j in range(i + 1, size + 1):
                    if self.least_workers(i, j, seconds) > min(self.lanes, self.cluster.devices - run.worker):
                        break
                    for new in self.extended(run, gone, i, j, seconds):
                        if self.can_end(new, j, seconds):
                            self.add(runs[j], new, j, seconds)
        prices = (price(self.profile, self.cluster, self.plan(run)) for run in runs[size])
        found = min(prices, key=attrgetter(least), default=None)
        return found if found and found.seconds <= seconds * (1 + 1e-6) else None

    def of_least_memory(self) -> Price | None:
        """A plan that keeps to the memory limit, however slow; of those that were looked at the one with the least."""
        return self.within(inf, "memory")

    def add(self, runs: list[PartialPlan], new: PartialPlan, j: int, seconds: float) -> None:
        """Keep the new one unless another is no worse in everything, and drop those that it is no worse than."""
        if any(self.no_worse(old, new, j, seconds) for old in runs):
            return
        runs[:] = [old for old in runs if not self.no_worse(new, old, j, seconds)]
        runs.append(new)

    def no_worse(self, a: PartialPlan, b: PartialPlan, j: int, seconds: float) -> bool:
        """True if whatever can follow b can follow a, in no more time."""
        if a.worker > b.worker:
            return False
        costs = self.costs
        size = costs.crossing[j]
        if a.worker < b.worker:  # then a next worker, without anything to do yet, may stand for b's last one
            if len(set(self.cluster.speeds)) > 1:
                return False
            spared = b.lanes * size
            roomy = self.is_loose(seconds) or spared <= b.back
            if isfinite(self.cores) and a.total + a.lanes * costs.sending[j] > b.total:
                return False
            return roomy and b.lanes * costs.receiving[j] <= b.busy and self.can_leave(a, j, seconds)
        here, there = a.lanes * size, b.lanes * size
        sending, receiving = costs.sending[j], costs.receiving[j]
        if a.busy > b.busy or a.busy + a.lanes * sending > b.busy + b.lanes * sending:
            return False
        if isfinite(self.cores) and (a.total > b.total or a.total + a.lanes * sending > b.total + b.lanes * sending):
            return False
        if isfinite(self.limit) and (a.memory > b.memory or a.graph > b.graph):
            return False
        if self.is_loose(seconds):
            return not receiving or here >= there
        return a.out <= b.out and a.out + here <= b.out + there and a.back <= b.back and here >= there

    def is_loose(self, seconds: float) -> bool:
        """True if the link carries in that time whatever a worker could have to send."""
        return self.cluster.link.carrying(self.most_traffic) <= seconds

    def can_leave(self, run: PartialPlan, j: int, seconds: float) -> bool:
        """True if the last worker has time to send all its lanes' output to others, who take on block j."""
        return self.sent(run, run.lanes, j, seconds) is not None

    def is_enough(self, run: PartialPlan, j: int, seconds: float) -> bool:
        """True if a stage that ends so needs no more workers: the next one, free yet, could begin with what follows."""
        return not self.all_shares and self.can_leave(run, j, seconds)

    def can_end(self, run: PartialPlan, j: int, seconds: float) -> bool:
        """True if the blocks from j on could still be computed in time, if nothing else were to do."""
        left = self.lanes * self.costs.total("lane", j, self.costs.size)
        if run.total + left / self.fastest > self.cores * seconds * (1 + CLOSE):
            return False
        room = max(0.0, seconds - run.busy) * self.cluster.speed(run.worker)
        room = room if self.shared else 0.0
        return left <= (room + self.capacity[run.worker + 1] * seconds) * (1 + CLOSE) or not isfinite(seconds)

    def extended(self, run: PartialPlan, gone: LeftBehind, i: int, j: int, seconds: float) -> Iterator[PartialPlan]:
        """Blocks i..j as one stage after `run`: by new workers, and with some lanes by the last one.

        gone: the run when so many of its lanes have gone to other workers, by their number.
        """
        if left := gone(run.lanes):
            yield from self.extended_by(left, i, j, seconds)
        if run.worker >= 0 and self.shared:
            lane = self.costs.total("lane", i, j) / self.cluster.speed(run.worker)
            if run.busy + lane > seconds:
                return
            one_way = self.is_loose(seconds) and not self.cluster.link.receiver and not self.all_shares
            fitting = at_most(self.lanes, seconds - run.busy, lane)
            for lanes in (None,) if one_way or self.lanes > FEW else range(1, fitting + 1):
                yield from self.with_head(run, gone, lanes, i, j, seconds)

    def with_head(
        self, run: PartialPlan, gone: LeftBehind, lanes: int | None, i: int, j: int, seconds: float
    ) -> Iterator[PartialPlan]:
        """lanes: how many the last worker takes; None: as many as it can."""
        workers, upto = max(1, self.least_workers(i, j, seconds) - 1), self.cluster.devices - run.worker
        while workers <= min(self.lanes, upto):
            head = self.head(run, gone, lanes, workers, i, j, seconds)
            if head and workers == 1 and head.lanes == self.lanes:
                yield head
                if self.is_enough(head, j, seconds):
                    return
            if head and workers > 1 and (new := self.shared_out(head, (head.lanes,), workers, i, j, seconds)):
                yield new
                if self.is_enough(new, j, seconds):
                    return
            workers = self.more(workers, head.lanes if head else 0, 1, i, j, seconds)

    def head(
        self,
        run: PartialPlan,
        gone: LeftBehind,
        lanes: int | None,
        workers: int,
        i: int,
        j: int,
        seconds: float,
    ) -> PartialPlan | None:
        """The last worker with so many lanes of the next stage; None: with as many as it can take.

        Where others have the rest, it must be able to send its output: who takes that on comes after them.
        """
        most = self.lanes - (workers - 1)
        own = min(most, lanes or most)
        load = self.costs.load(i, j, workers, self.cluster.speed(run.worker))
        while own > 0:
            left = gone(max(run.lanes - own, 0))
            head = self.keep_last_worker(left, run, own, workers, i, j, seconds) if left else None
            if head and workers > 1 and not self.can_leave(head, j, seconds):
                head = None
            if head or lanes:
                return head
            own = at_most(own - 1, seconds - run.busy - load.fixed, load.lane)
        return None

    def extended_by(self, run: PartialPlan, i: int, j: int, seconds: float) -> Iterator[PartialPlan]:
        """Blocks dealt out to new workers alone."""
        most = min(self.lanes, self.cluster.devices - run.worker - 1) if self.shared else 1
        workers = self.least_workers(i, j, seconds)
        while workers <= most:
            if new := self.shared_out(run, (), workers, i, j, seconds):
                yield new
                if self.is_enough(new, j, seconds):
                    return
            workers = self.more(workers, 0, 0, i, j, seconds)

    def least_workers(self, i: int, j: int, seconds: float) -> int:
        """A number that is never too large: by computing alone, on the fastest devices."""
        work = self.lanes * self.costs.total("lane", i, j) / self.fastest
        return max(1, ceil(work / seconds * (1 - CLOSE))) if isfinite(seconds) else 1

    def more(self, workers: int, had: int, heads: int, i: int, j: int, seconds: float) -> int:
        """The next number of workers to try where so many were too few. Of many one more changes each one's part of
        the rest so little that it is as many as the lanes need at once."""
        if workers < FEW:
            return workers + 1
        each = self.most(self.fastest, workers, i, j, seconds, last=True)
        return max(workers + 1, heads + ceil((self.lanes - had) / each)) if each else self.lanes + 1

    def shared_out(
        self, run: PartialPlan, counts: tuple[int, ...], workers: int, i: int, j: int, seconds: float
    ) -> PartialPlan | None:
        """The rest of a stage's lanes to the next workers, each as many as it can take; None where that is not all.

        counts: of those who have some already.
        """
        rest, first, more = self.lanes - sum(counts), run.worker + 1, workers - len(counts)
        if first + more > self.cluster.devices or rest < more:
            return None
        speeds = [self.cluster.speed(worker) for worker in range(first, first + more)]
        room = [self.most(speed, workers, i, j, seconds, last=False) for speed in speeds[:-1]]
        room.append(self.most(speeds[-1], workers, i, j, seconds, last=True))
        if min(room) < 1 or sum(room) < rest:
            return None
        dealt = list(counts)
        for place, each in enumerate(room):
            dealt.append(min(each, rest - (more - 1 - place)))  # one at least is left for each of the others
            rest -= dealt[-1]
        spent = run.total + (run.lanes * self.costs.sending[j] if counts else 0.0)
        for lanes, speed in zip(dealt[len(counts) : -1], speeds[:-1], strict=True):
            spent += lanes * self.costs.sending[j] + self.begun(lanes, workers, i, j, speed)
        return self.add_worker(first + more - 1, tuple(dealt), workers, i, j, run, spent)

    def begun(self, lanes: int, workers: int, i: int, j: int, speed: float) -> float:
        """Seconds busy of a worker with these lanes alone, whose output is not sent yet."""
        load = self.costs.load(i, j, workers, speed)
        return lanes * (load.lane + self.costs.receiving[i]) + load.fixed

    def most(self, speed: float, workers: int, i: int, j: int, seconds: float, *, last: bool) -> int:
        """Lanes that a worker without any can take; last: what becomes of its output is not known yet."""
        key = (speed, workers, i, j, last)
        if self._most_for != seconds:
            self._most = {}
            self._most_for = seconds
        if key not in self._most:
            self._most[key] = self._most_of(speed, workers, i, j, seconds, last)
        return self._most[key]

    def _most_of(self, speed: float, workers: int, i: int, j: int, seconds: float, last: bool) -> int:
        costs, link = self.costs, self.cluster.link
        back, out = costs.crossing[i], 0.0 if last else costs.crossing[j]
        load = costs.load(i, j, workers, speed)
        lane = load.lane + costs.receiving[i] + (0.0 if last else costs.sending[j])
        upto = at_most(self.lanes, seconds - load.fixed, lane)
        traffic = seconds - link.carrying(load.exchanged)
        upto = at_most(upto, traffic, link.carrying(max(back, out)))
        if workers > 1:
            upto = at_most(upto, seconds - load.longest, load.alone, first=1)
        graph = costs.largest_graph[i][j - i - 1]
        while upto and costs.memory(i, j, upto, workers) + graph > self.limit:
            upto = 2 ** (upto - 1).bit_length() // 2  # with a buffer less
        return upto

    def add_worker(
        self, worker: int, counts: tuple[int, ...], workers: int, i: int, j: int, before: PartialPlan, spent: float
    ) -> PartialPlan:
        """A worker that begins with its lanes of this stage."""
        lanes, costs, speed = counts[-1], self.costs, self.cluster.speed(worker)
        load = costs.load(i, j, workers, speed)
        came = lanes * costs.crossing[i]
        return PartialPlan(
            worker,
            self.begun(lanes, workers, i, j, speed),
            load.exchanged,
            load.exchanged + came,
            self.memory(i, j, lanes, workers),
            costs.largest_graph[i][j - i - 1],
            lanes,
            before,
            (i, j),
            counts,
            spent,
        )

    def keep_last_worker(
        self, gone: PartialPlan, run: PartialPlan, lanes: int, workers: int, i: int, j: int, seconds: float
    ) -> PartialPlan | None:
        """The last worker with so many lanes of the next stage, too; None where it has no room for them.

        gone: the run when those lanes have gone that it does not take on.
        """
        costs = self.costs
        load = costs.load(i, j, workers, self.cluster.speed(run.worker))
        if (lanes - 1) * load.alone + load.longest > seconds:
            return None
        more = max(0, lanes - run.lanes)
        came = more * costs.crossing[i]
        busy = gone.busy + lanes * load.lane + load.fixed + more * costs.receiving[i]
        if busy > seconds:
            return None
        head = PartialPlan(
            run.worker,
            busy,
            gone.out + load.exchanged,
            gone.back + load.exchanged + came,
            gone.memory + self.memory(i, j, lanes, workers),
            max(gone.graph, costs.largest_graph[i][j - i - 1]),
            lanes,
            run,
            (i, j),
            (lanes,),
            run.spent,
        )
        return head if self.keeps_to(head, seconds) else None

    def memory(self, i: int, j: int, lanes: int, workers: int) -> float:
        """Bytes of a worker with so many lanes; 0 where nothing limits them: then nobody looks at it."""
        return self.costs.memory(i, j, lanes, workers) if isfinite(self.limit) else 0.0

    def sent(self, run: PartialPlan, lanes: int, border: int, seconds: float) -> PartialPlan | None:
        """The run when so many of its lanes have gone to another worker; None where that takes too long."""
        if run.worker < 0 or border == self.costs.size:
            return run
        num_bytes = lanes * self.costs.crossing[border]
        gone = run._replace(busy=run.busy + lanes * self.costs.sending[border], out=run.out + num_bytes)
        return gone if self.keeps_to(gone, seconds) else None

    def keeps_to(self, run: PartialPlan, seconds: float) -> bool:
        """True if the last worker, and its link, are done in time, and it keeps to the memory limit."""
        if run.busy > seconds or run.memory + run.graph > self.limit:
            return False
        return run.out / self.rate <= seconds and run.back / self.rate <= seconds

    def plan(self, run: PartialPlan) -> Plan:
        """The plan of a run through all blocks. Who has lanes of two stages has the same ones of both, as far as it
        goes."""
        found: list[tuple[tuple[int, int], list[Share]]] = []
        each: PartialPlan | None = run
        while each is not None and each.before is not None:
            if each.counts:
                found.append((each.stage, shares_of_lanes(each, self.lanes)))
            each = start_of(each)
        stages: list[PlanStage] = []
        for place, ((i, j), shares) in enumerate(reversed(found)):
            turned = shares if place % 2 == 0 else mirrored(shares, self.lanes)
            names = tuple(self.profile.names[i:j])
            ordered = tuple(sorted(turned, key=lambda share: share.lanes[0]))
            if stages and stages[-1].shares == ordered:
                stages[-1] = PlanStage(stages[-1].blocks + names, ordered)
            else:
                stages.append(PlanStage(names, ordered))
        return Plan(self.lanes, tuple(stages))


def start_of(run: PartialPlan) -> PartialPlan | None:
    """The run before the stage that ends this one."""
    before = run.before
    if before is not None and before.stage == run.stage and before.counts:
        return before.before  # the head of the same stage
    return before


def shares_of_lanes(run: PartialPlan, lanes: int) -> list[Share]:
    """The lanes of a stage in the order of its workers."""
    first, shares = 0, list[Share]()
    for place, count in enumerate(run.counts):
        shares.append(Share(run.worker - len(run.counts) + 1 + place, range(first, first + count)))
        first += count
    assert first == lanes
    return shares


def mirrored(shares: Sequence[Share], lanes: int) -> list[Share]:
    """Lanes counted from the other end: who has the last ones of one stage has the first ones of the next."""
    return [Share(share.worker, range(lanes - share.lanes.stop, lanes - share.lanes.start)) for share in shares]


def at_most(upto: int, room: float, each: float, first: int = 0) -> int:
    """The number that fits into `room`, of `each`, of which `first` take none."""
    if room < 0:
        return 0
    return upto if not isfinite(room) or each <= 0 else min(upto, first + int(room / each * (1 + TINY)))
