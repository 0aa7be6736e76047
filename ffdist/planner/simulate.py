"""A plan at work, event by event: measured times with their spread, links, bounded queues, hidden exchanges.

A worker computes one message at a time, of the latest stage that has one and room for its output; a block's gradients
go to the others of its stage when it has learned from the last message of a batch, and the next batch waits for its new
weights. Where each updates a slice, that comes behind the batch, and then the slices' way; who serves in other stages,
too, goes on with those meanwhile. What is simulated is labelled so wherever it is shown.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from ffdist.pipeline.bucket import bucket_sizes
from ffdist.plan import Plan
from ffdist.planner.cluster import Cluster
from ffdist.planner.cost import costs_of
from ffdist.planner.events import CorePool, EventQueue, OneShotEvent, Process, WorkerLinks
from ffdist.planner.price import bounds
from ffdist.planner.profile import Profile, SampleCurve

BATCHES = 24
"""The batches that are simulated, of which the first third fills the queues, and the last sixth empties them."""


@dataclass(frozen=True)
class SimulationResult:
    """The result of a simulation."""

    seconds: float
    """The seconds of a batch, in the steady state."""
    batch: int
    idle: tuple[float, ...]
    """Each worker's share of the time without computing."""
    hidden: float
    """The share of the exchanges' seconds in which nobody waited for them; 1 where there are none."""

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class SimulatedMicrobatch:
    """One microbatch in front of a stage."""

    batch: int
    samples: int
    lane: int
    number: int
    """The number among the lane's microbatches."""
    last: bool
    """Whether it is the last of its lane's."""


class TimeDraw:
    """Times as they were measured: their value, or by a seed one of all that were measured."""

    def __init__(self, seed: int | None, *who: int) -> None:
        """who: whose times they are; others' are drawn apart, so that they do not change these."""
        self.random = None if seed is None else random.Random(f"{seed} {who}")

    def __call__(self, curve: SampleCurve, samples: float) -> float:
        value = curve.at(samples)
        return value if self.random is None else value * self.random.choice(curve.spread)


def simulate(
    profile: Profile, cluster: Cluster, plan: Plan, *, batches: int = BATCHES, seed: int | None = None
) -> SimulationResult:
    """Simulate so many batches under the plan, six at least; seed: of the draws, None for none, every time at its
    value."""
    assert batches >= 6
    run = SimulatedRun(profile, cluster, plan, batches, seed)
    run.events.run()
    assert len(run.ends) == batches, "every batch comes to the end"
    first, last = batches // 3, batches - 1 - batches // 6
    seconds = (run.ends[last] - run.ends[first]) / (last - first)
    idle = tuple(max(0.0, 1 - busy / run.ends[-1]) for busy in run.busy)
    hidden = max(0.0, 1 - run.waited / run.exchanging) if run.exchanging else 1.0
    return SimulationResult(seconds, profile.batch, idle, hidden)


class SimulatedRun:
    """The state of a simulation."""

    def __init__(self, profile: Profile, cluster: Cluster, plan: Plan, batches: int, seed: int | None) -> None:
        self.profile = profile
        self.cluster = cluster
        self.plan = plan
        self.batches = batches
        self.events = EventQueue()
        self.costs = costs_of(profile, cluster, plan.lanes)
        self.cores = CorePool(self.events, cluster.cores)
        self.turns = [CorePool(self.events, 1) for _ in range(plan.workers)]
        """A worker does one thing at a time."""
        self.links = WorkerLinks(self.events, plan.workers)
        self.bounds = bounds(plan)
        parts = [cluster.exchange.parts(len(stage.shares)) for stage in plan.stages]
        buckets = [buckets_of(profile, *bounds, many) for bounds, many in zip(self.bounds, parts, strict=True)]
        self.bucket_of = [{index: bucket for bucket in each for index in bucket} for each in buckets]
        """For each stage, by a block's index: the blocks whose gradients travel with its."""
        self.rounds = [
            self.costs.rounds(*ends, len(stage.shares)) for stage, ends in zip(plan.stages, self.bounds, strict=True)
        ]
        """The rounds of each stage's exchanges."""
        self.workers = [stage.workers for stage in plan.stages]
        self.lanes = {(s, share.worker): share.lanes for s, stage in enumerate(plan.stages) for share in stage.shares}
        places = list(self.lanes)
        self.draws = {place: TimeDraw(seed, *place) for place in places}
        self.expected = {place: deque(self.messages(*place)) for place in places}
        """What each worker will learn from in each of its stages, in the order in which it does."""
        self.inbox = {place: set[SimulatedMicrobatch]() for place in places}
        self.room = {(s, *route): cluster.queue for s in range(len(plan.stages) - 1) for route in plan.routes(s)}
        """Credits of each edge, by the stage before it and its ends."""
        self.wake = [OneShotEvent() for _ in range(plan.workers)]
        """Fired where a worker that has nothing to do may have something again."""
        self.exchanges: dict[tuple[int, int, int, int], GradientExchange] = {}
        """By stage, first block of those that travel together, batch, and round."""
        self.left = [plan.lanes for _ in range(batches)]
        """Lanes of each batch that have not gone through all blocks yet."""
        self.ends: list[float] = []
        """When each batch had gone through all blocks."""
        self.busy = [0.0] * plan.workers
        self.waited = 0.0
        """Seconds that workers waited for exchanges, ..."""
        self.exchanging = 0.0
        """... of the seconds that these took, each worker's counted."""
        for worker in range(plan.workers):
            if worker in plan.stages[0].workers:  # each of them has a loader of its own
                self.inbox[0, worker].update(self.expected[0, worker])
            self.events.start(self.work(worker))

    def messages(self, stage: int, worker: int) -> list[SimulatedMicrobatch]:
        """The messages that a worker learns from in a stage, of all batches, in order."""
        place = self.plan.stages[stage]
        microbatches = messages_of(self.profile, self.plan.lanes, place.lanes_of(worker))
        own = place.orders_of(worker, range(self.batches))
        return [replace(each, batch=batch) for batch in own for each in microbatches]

    def work(self, worker: int) -> Process:
        """Simulate what a worker does."""
        serving = list(reversed(self.plan.stages_of(worker)))
        while any(self.expected[stage, worker] for stage in serving):
            stage = next((s for s in serving if self.is_ready(s, worker)), None)
            if stage is None:
                self.wake[worker] = OneShotEvent()
                yield self.wake[worker]
                continue
            message = self.expected[stage, worker].popleft()
            self.inbox[stage, worker].remove(message)
            yield from self.learn(stage, worker, message)

    def is_ready(self, stage: int, worker: int) -> bool:
        """True if there is a message, room for what comes of it, and its first block's new weights on their way."""
        message = next(iter(self.expected[stage, worker]), None)
        if message not in self.inbox[stage, worker]:
            return False
        assert message
        target = self.target(stage, worker, message)
        if target is not None and target != worker and not self.room[stage, worker, target]:
            return False
        place = self.plan.stages[stage]
        last_round = 0 if place.by_batch else len(self.rounds[stage]) - 1
        before = self.exchanges.get((stage, self.bounds[stage][0], message.batch - 1, last_round))
        shared = len(place.shares) > 1
        return not shared or message.batch == 0 or (before is not None and before.begun)

    def target(self, stage: int, worker: int, message: SimulatedMicrobatch) -> int | None:
        """The worker that gets its output; None after the last stage."""
        return None if stage + 1 == len(self.plan.stages) else self.sharer(stage + 1, message)

    def sharer(self, stage: int, message: SimulatedMicrobatch) -> int:
        """The worker that computes it in a stage."""
        return self.plan.stages[stage].worker_of(message.lane, message.batch)

    def learn(self, stage: int, worker: int, message: SimulatedMicrobatch) -> Process:
        """A message through all blocks of a stage, as `pipeline.stage` has it."""
        (i, j), blocks, draw = self.bounds[stage], self.profile.blocks, self.draws[stage, worker]
        share = self.lanes[stage, worker]
        is_first = message.lane == share[0] and message.number == 0
        is_last = message.lane == share[-1] and message.last
        if stage and self.sharer(stage - 1, message) != worker:
            yield from self.spend(worker, self.cluster.link.receiving(message.samples * blocks[i - 1].sent, 1))
        if stage == 0 and self.profile.on_cpu:
            yield from self.compute(worker, draw(self.profile.source, message.samples))
        if (target := self.target(stage, worker, message)) not in (None, worker):
            self.room[stage, worker, target] -= 1
        for index in range(i, j):
            block = blocks[index]
            if is_first and message.batch:
                yield from self.updated(stage, worker, index, message.batch - 1)
            yield from self.compute(worker, draw(block.forward, message.samples))
            if index == j - 1:
                yield from self.send(stage, worker, message, message.samples * block.sent)
                if is_last:
                    yield from self.advance(stage, worker, message.batch, last=False)
            yield from self.compute(worker, draw(block.backward, message.samples))
            if index == i:
                self.take(stage, worker, message)
            if message.last and self.plan.lanes > 1:
                yield from self.compute(worker, block.lane + (block.add if message.lane != share[0] else 0.0))
            if is_last:
                yield from self.post(stage, worker, index, message.batch)
        if stage + 1 == len(self.plan.stages) and message.last:
            self.left[message.batch] -= 1
            if not self.left[message.batch]:
                self.ends.append(self.events.now)
        if is_last:
            yield from self.advance(stage, worker, message.batch, last=True)

    def compute(self, worker: int, seconds: float) -> Process:
        """Seconds of the profile's device, as long as this worker's takes for them."""
        yield from self.spend(worker, seconds / self.cluster.speed(worker))

    def spend(self, worker: int, seconds: float) -> Process:
        """Seconds of a CPU for sending and receiving."""
        if seconds:
            self.busy[worker] += seconds
            yield from self.turns[worker].during(self.cores.compute(seconds))

    def send(self, stage: int, worker: int, message: SimulatedMicrobatch, num_bytes: float) -> Process:
        """A stage's output on its way to the next; the worker goes on as soon as its own part of that is done."""
        target = self.target(stage, worker, message)
        if target is None:
            return
        if target != worker:
            yield from self.spend(worker, self.cluster.link.sending(num_bytes, 1))
        self.after(self.carried(worker, target, num_bytes), lambda: self.arrive(stage + 1, target, message))

    def carried(self, sender: int, receiver: int, num_bytes: float) -> Process:
        """A message's way; none where it stays with its worker."""
        link = self.cluster.link
        if sender == receiver:
            return
        if link.wired:
            yield from self.links.carry(sender, receiver, link.seconds(num_bytes))
        yield link.latency + (0.0 if link.wired else link.on_the_way(num_bytes))

    def arrive(self, stage: int, worker: int, message: SimulatedMicrobatch) -> None:
        """A message lies in front of a stage from now on."""
        self.inbox[stage, worker].add(message)
        self.wake_worker(worker)

    def take(self, stage: int, worker: int, message: SimulatedMicrobatch) -> None:
        """The first block has done with its input: its slot is free again."""
        if not stage:
            return
        sender = self.sharer(stage - 1, message)
        if sender != worker:
            self.room[stage - 1, sender, worker] += 1
            self.wake_worker(sender)

    def post(self, stage: int, worker: int, index: int, batch: int) -> Process:
        """A batch's gradients of a block are complete here: the step, where nobody else has a part; or they go out."""
        block, workers = self.profile.blocks[index], self.workers[stage]
        by_batch = self.plan.stages[stage].by_batch
        if by_batch or len(workers) == 1:
            yield from self.compute(worker, block.step + (block.lanes if self.plan.lanes > 1 else 0.0))
            if by_batch:
                yield from self.send_state(stage, worker, index, batch)
            return
        if index == self.bucket_of[stage][index][-1]:
            self.exchange(stage, self.bucket_of[stage][index], batch, 0)

    def exchange(self, stage: int, bucket: range, batch: int, number: int) -> None:
        """One more worker has sent what it has for a round; the last one's begins to travel with all others'."""
        workers, link = self.workers[stage], self.cluster.link
        exchange = self.exchange_of(stage, bucket, batch, number)
        exchange.missing -= 1
        if exchange.missing:
            return
        exchange.begun = True
        num_bytes = self.costs.sent(bucket.start, bucket.stop, self.rounds[stage][number])
        carried = self.links.exchange(workers, link.seconds(num_bytes)) if link.wired else link.on_the_way(num_bytes)
        self.exchanging += (carried + link.latency) * len(workers)
        self.events.fire(exchange.done, carried + link.latency)
        for each in workers:
            self.wake_worker(each)

    def exchange_of(self, stage: int, bucket: range, batch: int, number: int) -> GradientExchange:
        key = (stage, bucket.start, batch, number)
        return self.exchanges.setdefault(key, GradientExchange(len(self.workers[stage])))

    def advance(self, stage: int, worker: int, batch: int, *, last: bool) -> Process:
        """Update this worker's slice of what was posted, and hand it on, where each has one. last: of the bucket with
        the last block, once that has learned; else of the others."""
        if len(self.rounds[stage]) == 1 or self.plan.stages[stage].by_batch:
            return
        end = self.bounds[stage][1] - 1
        buckets = {bucket.start: bucket for bucket in self.bucket_of[stage].values() if (end in bucket) == last}
        for bucket in buckets.values():
            slices = self.advanced(stage, worker, bucket, batch)
            if len(self.plan.stages_of(worker)) == 1:
                yield from slices
            else:
                self.events.start(slices)

    def advanced(self, stage: int, worker: int, bucket: range, batch: int) -> Process:
        """All rounds of an exchange but the last: half of them before the update, and half of them after it."""
        many, half = len(self.workers[stage]), len(self.rounds[stage]) // 2
        for number in range(2 * half - 1):
            yield from self.taken(stage, worker, bucket, batch, number)
            if number == half - 1:
                yield from self.compute(worker, self.costs.update(bucket.start, bucket.stop, many))
            self.exchange(stage, bucket, batch, number + 1)

    def send_state(self, stage: int, worker: int, index: int, batch: int) -> Process:
        """All that a block has learned goes to the worker of the next batch."""
        block, link = self.profile.blocks[index], self.cluster.link
        yield from self.compute(worker, block.handover / 2)
        yield from self.spend(worker, link.sender * block.state_bytes + link.message)
        exchange = self.exchanges.setdefault((stage, index, batch, 0), GradientExchange(1))
        exchange.begun = True
        following, begun = self.plan.stages[stage].worker_of(0, batch + 1), self.events.now

        def came() -> None:
            self.exchanging += self.events.now - begun
            self.events.fire(exchange.done)

        self.after(self.carried(worker, following, float(block.state_bytes)), came)
        self.wake_worker(following)

    def updated(self, stage: int, worker: int, index: int, batch: int) -> Process:
        """Wait until a shared block has the weights of the batch before; what the exchange took of a CPU comes now.
        Blocks that travel together are updated together, before the first of them."""
        place, block, link = self.plan.stages[stage], self.profile.blocks[index], self.cluster.link
        if len(place.shares) == 1:
            return
        if place.by_batch:
            yield from self.wait_for(self.exchanges.setdefault((stage, index, batch, 0), GradientExchange(1)))
            yield from self.spend(worker, link.receiver * block.state_bytes + link.message)
            yield from self.compute(worker, block.handover / 2)
            return
        bucket = self.bucket_of[stage][index]
        if index != bucket.start:
            return
        yield from self.taken(stage, worker, bucket, batch, len(self.rounds[stage]) - 1)
        if len(self.rounds[stage]) == 1:
            yield from self.compute(worker, self.costs.update(bucket.start, bucket.stop, len(place.shares)))

    def taken(self, stage: int, worker: int, bucket: range, batch: int, number: int) -> Process:
        """Wait for a round of an exchange; what its messages took of a CPU comes now."""
        yield from self.wait_for(self.exchange_of(stage, bucket, batch, number))
        yield from self.spend(worker, self.costs.messages(bucket.start, bucket.stop, self.rounds[stage][number]))

    def wait_for(self, exchange: GradientExchange) -> Process:
        begun = self.events.now
        yield exchange.done
        self.waited += self.events.now - begun

    def after(self, process: Process, act: Callable[[], None]) -> None:
        """Act when a process has come to its end."""

        def both() -> Process:
            yield from process
            act()

        self.events.start(both())

    def wake_worker(self, worker: int) -> None:
        if not self.wake[worker].fired:
            self.events.fire(self.wake[worker])


class GradientExchange:
    """One round of what workers exchange of some blocks and one batch."""

    def __init__(self, workers: int) -> None:
        self.missing = workers
        self.begun = False
        self.done = OneShotEvent()


def buckets_of(profile: Profile, i: int, j: int, parts: int) -> list[range]:
    """The blocks of i..j whose gradients travel together; parts: as of `ExchangeCost.parts`."""
    counts = bucket_sizes([block.gradient_bytes for block in profile.blocks[i:j]], parts)
    return [range(i + end - count, i + end) for count, end in zip(counts, accumulate(counts), strict=True)]


def messages_of(profile: Profile, lanes: int, own: range) -> list[SimulatedMicrobatch]:
    """The messages of the first batch on some lanes, in order: lanes as data parallelism cuts them, microbatches as
    `Tensor.chunk` does."""
    found = []
    for lane in own:
        samples = profile.batch * (lane + 1) // lanes - profile.batch * lane // lanes
        size = max(1, -(-samples // profile.microbatches))
        sizes = [min(size, samples - begun) for begun in range(0, samples, size)] or [0]
        found += [SimulatedMicrobatch(0, each, lane, n, n == len(sizes) - 1) for n, each in enumerate(sizes)]
    return found
