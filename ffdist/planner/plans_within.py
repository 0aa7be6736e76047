"""The plans that keep to a time: what the search for the fastest one asks for (`plan_search.py`, which says what plans
there are).

From the first block to the last: of a stage, the worker before takes as many lanes as the time leaves it, each next
one as many as it can, the last the rest; what reached the same block with no fewer and no slower devices left, no less
time, traffic, memory and work used is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from math import ceil, inf, isfinite, prod
from operator import attrgetter

from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import costs_of
from ffdist.planner.fewest import FewestWorkers
from ffdist.planner.free_devices import FreeDevices
from ffdist.planner.partial_plan import (
    CLOSE,
    OpenStage,
    PartialPlan,
    dealt_out,
    is_covered,
    mirrored,
    shares_of_lanes,
    start_of,
)
from ffdist.planner.price import Price, numbered
from ffdist.planner.profile import Profile

TINY = 1e-12
"""What rounding may come to."""
FEW = 8
"""Up to so many lanes, each number that the worker before may take of a stage is tried; of more, the most."""
MAX_MIXES = 10_000
"""Up to so many, lanes times blocks times numbers of devices of each speed that may be left, every order of devices is
tried."""
MAX_TRIED = 100_000
"""The partial plans that one question to all orders and shares may look at."""


class PlansWithin:
    """The plans of a number of lanes that keep to a time.

    shared: whether stages may have several workers, and workers several stages.
    """

    def __init__(self, profile: Profile, cluster: Cluster, lanes: int, *, shared: bool = True) -> None:
        self.profile = profile
        self.cluster = cluster
        self.lanes = lanes
        self.shared = shared
        self.costs = costs_of(profile, cluster, lanes)
        self.limit = cluster.most_memory
        self.rate = cluster.link.rate if cluster.link.wired else inf
        self.cores = inf if cluster.cores is None else cluster.cores
        self.most_workers = min(lanes, cluster.devices) if shared else 1
        """The most workers of a stage."""
        self.devices = FreeDevices(cluster)
        self.speeds = self.devices.speeds
        costs, size = self.costs, self.costs.size
        self.work = [self._work_from(i) for i in range(size + 1)]
        """Seconds, on a device of speed 1, that the blocks from one on take at least of all workers together."""
        self.most_traffic = lanes * sum(costs.crossing) + 2 * sum(costs.gradients)
        mixes = lanes * size * prod(len(devices) + 1 for devices in self.devices.numbers)
        self.has_orders = len(self.speeds) > 1
        """Whether it matters in which order devices get work, ..."""
        self.tries_orders = self.has_orders and mixes <= MAX_MIXES and lanes <= FEW
        """... and all orders can be tried."""
        self.has_shares = shared and lanes > 1 and isfinite(self.cores) and (self.has_orders or any(costs.sending))
        """Whether fewer lanes or more workers than a stage needs may serve all: less has to be sent, or slow devices
        have less to do."""
        self.tries_shares = self.has_shares and lanes <= FEW
        self.cut_short = False
        """Whether there were too many partial plans."""
        self.all_shares = False
        self.seconds = inf
        """The time that plans are to keep to now."""
        self.timed = False
        """Whether there is such a time."""
        self.loose = True
        """Whether the link carries in that time whatever a worker could have to send."""
        self.fewest = True
        """Whether the last worker of a stage is best off with as few of its lanes as can be, and the first one with as
        many: nothing is lost by getting lanes from others."""
        self.summed = False
        """Whether what all workers do together matters."""
        self._tried = 0
        self._next_number: list[list[int]] = []
        self._most: dict[tuple[int, int, int, int, bool], int] = {}

    @cached_property
    def _fewest(self) -> FewestWorkers:
        return FewestWorkers(self.costs, self.speeds[0], self.most_workers)

    @property
    def bounded(self) -> bool:
        """True if plans of the kinds that are searched were left out, as there are too many."""
        some_shares = self.shared and self.lanes > FEW and self.cluster.devices > 1
        some_shares = some_shares and (self.has_shares or any(self.costs.receiving) or not self.loose)
        return self.cut_short or some_shares or (self.has_orders and not self.tries_orders)

    def least_seconds(self) -> float:
        """Seconds that every plan takes at least, by computing alone."""
        on_all = self.work[0] / sum(self.speeds[kind] for kind in self.devices.row)
        return max(on_all, self.work[0] / self.speeds[0] / self.cores) if isfinite(self.cores) else on_all

    def try_all(self, all_of_them: bool) -> None:
        """Ask for all orders and shares from now on; else for one order, and the shares that serve a stage best."""
        self.devices.any_order = all_of_them and self.tries_orders
        self.all_shares = all_of_them and self.tries_shares

    def within(self, seconds: float, least: str = "seconds") -> Price | None:
        """A plan whose price is no more than that, of several with the least seconds (or memory). None for none."""
        self.seconds, self.timed = seconds, isfinite(seconds)
        self.loose = self.cluster.link.carrying(self.most_traffic) <= seconds
        one_way = self.loose and not self.cluster.link.receiver and not self.all_shares
        self.fewest = one_way or self.lanes > FEW
        self.summed = self.timed and isfinite(self.cores)
        self._most, self._tried = {}, 0
        self.devices.keep_to(seconds, self.work)
        size = self.costs.size
        runs: list[list[PartialPlan]] = [[self._first()], *([] for _ in range(size))]
        fewest = self._fewest.within(seconds, self.limit)
        for i in range(size):
            if not runs[i]:
                continue
            self._next_number = fewest[i].tolist()
            closed = self.closed(runs[i], i)
            for j in range(i + 1, size + 1):
                workers = self._next_number[j][0]
                if workers > self.most_workers:
                    continue
                for run in closed:
                    self.add(runs[j], self.by_new_workers(run, workers, i, j), j)
                for run in runs[i] if self.shared and i else ():
                    self.add(runs[j], self.by_last_worker(run, workers, i, j), j)
            if self._tried > MAX_TRIED and (self.devices.any_order or self.all_shares):
                self.cut_short, self.tries_orders, self.tries_shares = True, False, False
                self.try_all(False)
                return None
        found = min((self.price(run) for run in runs[size]), key=attrgetter(least), default=None)
        return found if found and found.seconds <= seconds * (1 + 1e-6) else None

    def fitting(self, limit: float) -> Price | None:
        """A plan that keeps to this memory limit, however slow; of those that were looked at the one with the least."""
        before, self.limit = self.limit, limit
        found = self.within(inf, "memory")
        self.limit = before
        return found

    def _first(self) -> PartialPlan:
        """No block dealt out."""
        return PartialPlan(self.devices.all(), -1, -1, inf, 0.0, 0.0, 0.0, 0.0, 0)

    def _work_from(self, i: int) -> float:
        size, costs = self.costs.size, self.costs
        of_lanes = self.lanes * costs.total("lane", i, size) + (self.lanes - 1) * costs.total("add", i, size)
        return of_lanes + costs.total("step", i, size) + costs.total("after_lanes", i, size)

    def closed(self, runs: Iterable[PartialPlan], i: int) -> list[PartialPlan]:
        """Those whose last worker may send all that it has of the blocks before i, and get nothing more; none that
        another is no worse than."""
        found: list[PartialPlan] = []
        for run in runs:
            if self.can_leave(run, i) and not any(self.no_fewer(old, run, i) for old in found):
                found = [*(old for old in found if not self.no_fewer(run, old, i)), run]
        return found

    def no_fewer(self, a: PartialPlan, b: PartialPlan, i: int) -> bool:
        """True if whatever new workers can do after b they can do after a."""
        if any(have < want for have, want in zip(a.free, b.free, strict=True)):
            return False
        return not self.summed or self.spent_by(a, i) <= self.spent_by(b, i)

    def spent_by(self, run: PartialPlan, i: int) -> float:
        """Seconds of all workers so far when the last one has sent all its lanes."""
        return run.total + run.lanes * self.costs.sending[i]

    def add(self, runs: list[PartialPlan], found: Iterable[PartialPlan], j: int) -> None:
        """Keep each new one, unless it cannot end in time or another is no worse in everything, and drop those that it
        is no worse than."""
        for new in found:
            self._tried += 1
            if not self.can_end(new, j) or any(self.no_worse(old, new, j) for old in runs):
                continue
            runs[:] = [old for old in runs if not self.no_worse(new, old, j)]
            runs.append(new)

    def no_worse(self, a: PartialPlan, b: PartialPlan, j: int) -> bool:
        """True if whatever can follow b can follow a, in no more time."""
        for have, want in zip(a.free, b.free, strict=True):
            if have < want:
                return False
        return (a.kind <= b.kind and self.has_no_more(a, b, j)) or self.spares_worker(a, b, j)

    def has_no_more(self, a: PartialPlan, b: PartialPlan, j: int) -> bool:
        """True if the last worker of a can take whatever that of b can."""
        costs = self.costs
        size, sending, receiving = costs.crossing[j], costs.sending[j], costs.receiving[j]
        here, there = a.lanes * size, b.lanes * size
        if self.timed and (a.busy > b.busy or a.busy + a.lanes * sending > b.busy + b.lanes * sending):
            return False
        if self.summed and (a.total > b.total or self.spent_by(a, j) > self.spent_by(b, j)):
            return False
        if isfinite(self.limit) and (a.memory > b.memory or a.graph > b.graph):
            return False
        if self.loose:
            return not receiving or here >= there
        return a.out <= b.out and a.out + here <= b.out + there and a.back <= b.back and here >= there

    def spares_worker(self, a: PartialPlan, b: PartialPlan, j: int) -> bool:
        """True if a device that a has left, without anything to do yet, may stand for b's last one."""
        if self.devices.any_order:
            more = (
                have - want >= (kind >= b.kind) for kind, (have, want) in enumerate(zip(a.free, b.free, strict=True))
            )
        else:
            more = (have > want for have, want in zip(a.free, b.free, strict=True))
        if not all(more):
            return False
        came = b.lanes * self.costs.receiving[j]
        if self.summed and self.spent_by(a, j) + came > b.total:
            return False
        roomy = self.loose or b.lanes * self.costs.crossing[j] <= b.back
        return roomy and came <= b.busy and self.can_leave(a, j)

    def can_leave(self, run: PartialPlan, j: int) -> bool:
        """True if the last worker has time to send all its lanes' output to others, who take on block j."""
        if run.worker < 0 or j == self.costs.size:
            return True
        if run.busy + run.lanes * self.costs.sending[j] > self.seconds:
            return False
        return (run.out + run.lanes * self.costs.crossing[j]) / self.rate <= self.seconds

    def is_enough(self, run: PartialPlan, i: int, j: int) -> bool:
        """True if a stage i..j that ends so needs no more workers: the next one, free yet, could begin with what
        follows."""
        if self.all_shares or not self.can_leave(run, j):
            return False
        if self.lanes > FEW:
            return True
        costs = self.costs
        in_time = costs.receiving[j] <= costs.receiving[i] + costs.total("lane", i, j) / self.speeds[0]
        return in_time and (self.loose or costs.crossing[j] <= costs.crossing[i])

    def can_end(self, run: PartialPlan, j: int) -> bool:
        """True if the blocks from j on could still be computed in time, if nothing else were to do."""
        if not self.timed:
            return True
        if self.summed and not self.can_spend(run.total, j):
            return False
        left = self.work[j]
        room = max(0.0, self.seconds - run.busy) * self.speeds[run.kind] if self.shared else 0.0
        return left <= (room + self.devices.capacity(run.free) * self.seconds) * (1 + CLOSE)

    def can_spend(self, spent: float, j: int) -> bool:
        """True if all workers together may have spent so much before the blocks from j on."""
        return spent + self.work[j] / self.speeds[0] <= self.cores * self.seconds * (1 + CLOSE)

    def by_new_workers(self, run: PartialPlan, workers: int, i: int, j: int) -> Iterator[PartialPlan]:
        """Blocks i..j as one stage after `run`, by new workers alone. workers: the fewest that may do."""
        most = min(self.most_workers, self.devices.most_new(run.free, j))
        spent = self.spent_by(run, i) if self.summed else 0.0
        enough: set[tuple[int, ...]] = set()
        while workers <= most:
            yield from self.shared_out(run, OpenStage(i, j, workers), spent, enough)
            if enough and not self.devices.any_order:
                return
            workers = self.more(workers, 0, 0, i, j)

    def by_last_worker(self, run: PartialPlan, workers: int, i: int, j: int) -> Iterator[PartialPlan]:
        """The same by the last worker, with some lanes or all, and by new ones."""
        lane = self.costs.total("lane", i, j) / self.speeds[run.kind]
        if run.busy + lane > self.seconds:
            return
        if self.fewest:
            yield from self.with_head(run, None, workers, i, j)
            return
        for lanes in range(1, at_most(self.lanes, self.seconds - run.busy, lane) + 1):
            yield from self.with_head(run, lanes, workers, i, j)

    def with_head(self, run: PartialPlan, lanes: int | None, workers: int, i: int, j: int) -> Iterator[PartialPlan]:
        """lanes: how many the last worker takes; None: as many as it can."""
        upto, enough = min(self.lanes, self.devices.most_new(run.free, j) + 1), set[tuple[int, ...]]()
        while workers <= upto:
            head = self.head(run, lanes, workers, i, j)
            if head and workers == 1:
                yield head
                if self.is_enough(head, i, j):
                    enough.add(())
            elif head:
                spent = self.spent_by(head, j) if self.summed else 0.0
                stage = OpenStage(i, j, workers, (head.lanes,), (head.kind,))
                yield from self.shared_out(head, stage, spent, enough)
            if enough and not self.devices.any_order:
                return
            workers = self.more(workers, head.lanes if head else 0, 1, i, j)

    def head(self, run: PartialPlan, lanes: int | None, workers: int, i: int, j: int) -> PartialPlan | None:
        """The last worker with so many lanes of the next stage; None: with as many as it can take.

        Where others have the rest, it must be able to send its output: who takes that on comes after them.
        """
        most = self.lanes - (workers - 1)
        if workers == 1:
            return self.keep_last_worker(run, most, 1, i, j) if lanes in (None, most) else None
        if lanes:
            head = self.keep_last_worker(run, lanes, workers, i, j) if lanes <= most else None
            return head if head and self.can_leave(head, j) else None
        load = self.costs.load(i, j, workers, self.speeds[run.kind])
        own = at_most(most, self.seconds - run.busy - load.fixed, load.lane + self.costs.sending[j])
        own = at_most(own, self.seconds - load.longest, load.alone, first=1)
        for fewer in range(own, 0, -1):
            head = self.keep_last_worker(run, fewer, workers, i, j)
            if head and self.can_leave(head, j):
                return head
        return None

    def more(self, workers: int, had: int, heads: int, i: int, j: int) -> int:
        """The next number of workers to try where so many were too few. Of many one more changes each one's part of
        the rest so little that it is as many as the lanes need at once."""
        wanted = workers + 1
        if workers >= FEW:
            each = self.most(0, workers, i, j, last=True)
            wanted = max(wanted, heads + ceil((self.lanes - had) / each)) if each else self.lanes + 1
        return self.next_number(wanted, j)

    def next_number(self, workers: int, j: int) -> int:
        """The first number, from this one on, of workers that may do the stage up to j in time."""
        return self._next_number[j][workers - 1] if workers <= self.most_workers else workers

    def shared_out(
        self, run: PartialPlan, stage: OpenStage, spent: float, enough: set[tuple[int, ...]]
    ) -> Iterator[PartialPlan]:
        """The rest of a stage's lanes to new workers, each as many as it can take; the last one more, where that may
        help.

        spent: seconds of all workers so far. enough: the kinds, fastest first, of fewer new workers who could do the
        same; this adds to it.
        """
        i, j, workers, counts, kinds = stage
        rest, more = self.lanes - sum(counts), workers - len(counts)
        if more > run.free[-1] or rest < more or (self.summed and not self.can_spend(spent, j)):
            return
        found: list[tuple[int, ...]] = []
        for devices, free, left in self.devices.next(run.free, more):
            if left < self.devices.least_left[j]:
                continue
            if enough and is_covered(devices, enough):
                found.append(tuple(sorted(devices)))
                continue
            room = self.rooms(devices[:-1], workers, i, j)
            if room and min(room) < 1:
                continue
            least = max(1, rest - sum(room))
            upto = min(rest - len(room), self.most(devices[-1], workers, i, j, last=True))
            for lanes in range(least, min(upto, least if self.fewest else upto) + 1):
                dealt = dealt_out(rest - lanes, room)
                now = spent
                if self.summed:
                    for each, kind in zip(dealt, devices[:-1], strict=True):
                        now += each * self.costs.sending[j] + self.begun(each, workers, i, j, kind)
                whole = OpenStage(i, j, workers, (*counts, *dealt, lanes), (*kinds, *devices))
                new = self.add_worker(run, free, whole, now, more)
                yield new
                if self.is_enough(new, i, j):
                    found.append(tuple(sorted(devices)))
        enough.update(found)

    def rooms(self, kinds: tuple[int, ...], workers: int, i: int, j: int) -> list[int]:
        """Lanes that each worker on these devices can take, where others come after it."""
        if kinds and kinds[0] == kinds[-1]:  # they come from the fastest on: all are alike
            return [self.most(kinds[0], workers, i, j, last=False)] * len(kinds)
        return [self.most(kind, workers, i, j, last=False) for kind in kinds]

    def begun(self, lanes: int, workers: int, i: int, j: int, kind: int) -> float:
        """Seconds busy of a worker with these lanes alone, whose output is not sent yet."""
        load = self.costs.load(i, j, workers, self.speeds[kind])
        return lanes * (load.lane + self.costs.receiving[i]) + load.fixed

    def most(self, kind: int, workers: int, i: int, j: int, *, last: bool) -> int:
        """Lanes that a worker without any can take; last: what becomes of its output is not known yet."""
        key = (kind, workers, i, j, last)
        if key not in self._most:
            self._most[key] = self._most_of(kind, workers, i, j, last)
        return self._most[key]

    def _most_of(self, kind: int, workers: int, i: int, j: int, last: bool) -> int:
        costs, link, seconds = self.costs, self.cluster.link, self.seconds
        back, out = costs.crossing[i], 0.0 if last else costs.crossing[j]
        load = costs.load(i, j, workers, self.speeds[kind])
        lane = load.lane + costs.receiving[i] + (0.0 if last else costs.sending[j])
        upto = at_most(self.lanes, seconds - load.fixed, lane)
        traffic = seconds - link.carrying(load.exchanged)
        upto = at_most(upto, traffic, link.carrying(max(back, out)))
        if workers > 1:
            upto = at_most(upto, seconds - load.longest, load.alone, first=1)
        graph = costs.largest_graph[i][j - i - 1]
        while upto and self.memory(i, j, upto, workers) + graph > self.limit:
            upto = 2 ** (upto - 1).bit_length() // 2  # with a buffer less
        return upto

    def add_worker(
        self, before: PartialPlan, free: tuple[int, ...], stage: OpenStage, spent: float, more: int
    ) -> PartialPlan:
        """The last of so many more workers, who begins with its lanes of this stage."""
        i, j, workers, counts, kinds = stage
        lanes, costs, kind = counts[-1], self.costs, kinds[-1]
        load = costs.load(i, j, workers, self.speeds[kind])
        return PartialPlan(
            free,
            kind,
            before.worker + more,
            self.begun(lanes, workers, i, j, kind),
            load.exchanged,
            load.exchanged + lanes * costs.crossing[i],
            self.memory(i, j, lanes, workers),
            costs.largest_graph[i][j - i - 1],
            lanes,
            before,
            (i, j),
            counts,
            kinds,
            spent,
        )

    def keep_last_worker(self, run: PartialPlan, lanes: int, workers: int, i: int, j: int) -> PartialPlan | None:
        """The last worker with so many lanes of the next stage, too, when those lanes have gone that it does not take
        on; None where it has no room for them."""
        costs, seconds = self.costs, self.seconds
        load = costs.load(i, j, workers, self.speeds[run.kind])
        if (lanes - 1) * load.alone + load.longest > seconds:
            return None
        less, more = max(0, run.lanes - lanes), max(0, lanes - run.lanes)
        busy = run.busy + less * costs.sending[i] + lanes * load.lane + load.fixed + more * costs.receiving[i]
        out = run.out + less * costs.crossing[i] + load.exchanged
        back = run.back + load.exchanged + more * costs.crossing[i]
        if busy > seconds or max(out, back) / self.rate > seconds:
            return None
        memory = run.memory + self.memory(i, j, lanes, workers)
        graph = max(run.graph, costs.largest_graph[i][j - i - 1])
        if memory + graph > self.limit:
            return None
        return PartialPlan(
            run.free,
            run.kind,
            run.worker,
            busy,
            out,
            back,
            memory,
            graph,
            lanes,
            run,
            (i, j),
            (lanes,),
            (run.kind,),
            run.spent,
        )

    def memory(self, i: int, j: int, lanes: int, workers: int) -> float:
        """Bytes of a worker with so many lanes; 0 where nothing limits them: then nobody looks at it."""
        return self.costs.memory(i, j, lanes, workers) if isfinite(self.limit) else 0.0

    def price(self, run: PartialPlan) -> Price:
        """The price of a run through all blocks."""
        plan, devices = self.plan(run)
        return numbered(self.profile, self.cluster, plan, devices)

    def plan(self, run: PartialPlan) -> tuple[Plan, list[int]]:
        """The plan of a run through all blocks, its workers numbered as they got work, and their devices. Who has lanes
        of two stages has the same ones of both, as far as it goes."""
        found: list[tuple[tuple[int, int], list[Share]]] = []
        kinds: dict[int, int] = {}
        each: PartialPlan | None = run
        while each is not None and each.before is not None:
            shares = shares_of_lanes(each, self.lanes)
            found.append((each.stage, shares))
            kinds.update(zip((share.worker for share in shares), each.kinds, strict=True))
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
        left = [iter(devices) for devices in self.devices.numbers]
        return Plan(self.lanes, tuple(stages)), [next(left[kinds[worker]]) for worker in range(len(kinds))]


def at_most(upto: int, room: float, each: float, first: int = 0) -> int:
    """The number that fits into `room`, of `each`, of which `first` take none."""
    if room < 0:
        return 0
    return upto if not isfinite(room) or each <= 0 else min(upto, first + int(room / each * (1 + TINY)))
