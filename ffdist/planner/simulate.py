"""A plan at work, event by event: measured times with their spread, links, bounded queues, hidden exchanges.

A worker computes one message at a time, of the latest stage that has one and room for its output; a block's gradients
go to the others of its stage when it has learned from the last message of a batch, and the next batch waits for its new
weights. What is simulated is labelled so wherever it is shown.
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
        self.cores = CorePool(self.events, cluster.cores)
        self.links = WorkerLinks(self.events, plan.workers)
        self.bounds = bounds(plan)
        parts = [cluster.exchange.parts(len(stage.shares)) for stage in plan.stages]
        buckets = [buckets_of(profile, *bounds, many) for bounds, many in zip(self.bounds, parts, strict=True)]
        self.bucket_of = [{index: bucket for bucket in each for index in bucket} for each in buckets]
        """For each stage, by a block's index: the blocks whose gradients travel with its."""
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
        self.exchanges: dict[tuple[int, int, int], GradientExchange] = {}
        """By stage, block and batch."""
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
        before = self.exchanges.get((stage, self.bounds[stage][0], message.batch - 1))
        shared = len(self.plan.stages[stage].shares) > 1
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

    def compute(self, worker: int, seconds: float) -> Process:
        """Seconds of the profile's device, as long as this worker's takes for them."""
        seconds /= self.cluster.speed(worker)
        self.busy[worker] += seconds
        yield from self.cores.compute(seconds)

    def spend(self, worker: int, seconds: float) -> Process:
        """Seconds of a CPU for sending and receiving."""
        if seconds:
            self.busy[worker] += seconds
            yield from self.cores.compute(seconds)

    def send(self, stage: int, worker: int, message: SimulatedMicrobatch, num_bytes: float) -> Process:
        """A stage's output on its way to the next; the worker goes on as soon as its own part of that is done."""
        target, link = self.target(stage, worker, message), self.cluster.link
        if target is None:
            return
        delay = 0.0
        if target != worker:
            yield from self.spend(worker, link.sending(num_bytes, 1))
            delay = link.latency + self.link_seconds(worker, target, num_bytes)
        self.later(delay, lambda: self.arrive(stage + 1, target, message))

    def link_seconds(self, sender: int, receiver: int, num_bytes: float) -> float:
        """Seconds until a link has carried them; a copy within a host is the sender's own work, where that is a CPU."""
        link = self.cluster.link
        if link.wired:
            return self.links.carry(sender, receiver, link.seconds(num_bytes))
        return 0.0 if link.sender else link.seconds(num_bytes)

    def exchange_seconds(self, workers: list[int], num_bytes: float) -> float:
        """Seconds until each of several has sent so many to the others, and got theirs."""
        link = self.cluster.link
        if link.wired:
            return self.links.exchange(workers, link.seconds(num_bytes))
        return 0.0 if link.sender else link.seconds(num_bytes)

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
        bucket = self.bucket_of[stage][index]
        for each in bucket if index == bucket[-1] else ():
            self.exchange(stage, each, batch)

    def exchange(self, stage: int, index: int, batch: int) -> None:
        """One more worker has sent a block's gradients; the last one's begin to travel with all others'."""
        block, workers, link = self.profile.blocks[index], self.workers[stage], self.cluster.link
        many = len(workers)
        exchange = self.exchanges.setdefault((stage, index, batch), GradientExchange(many))
        exchange.missing -= 1
        if exchange.missing:
            return
        exchange.begun = True
        exchange.seconds = (
            self.exchange_seconds(workers, self.exchanged(index, many))
            + self.cluster.exchange.rounds(many) * link.latency
            + block.step / self.slices(many)
        )
        self.exchanging += exchange.seconds * many
        self.events.fire(exchange.done, exchange.seconds)
        for each in workers:
            self.wake_worker(each)

    def send_state(self, stage: int, worker: int, index: int, batch: int) -> Process:
        """All that a block has learned goes to the worker of the next batch."""
        place, block, link = self.plan.stages[stage], self.profile.blocks[index], self.cluster.link
        yield from self.compute(worker, block.handover / 2)
        yield from self.spend(worker, link.sender * block.state_bytes + link.message)
        exchange = self.exchanges.setdefault((stage, index, batch), GradientExchange(1))
        exchange.begun = True
        following = place.worker_of(0, batch + 1)
        exchange.seconds = self.link_seconds(worker, following, float(block.state_bytes)) + link.latency
        self.exchanging += exchange.seconds
        self.events.fire(exchange.done, exchange.seconds)
        self.wake_worker(following)

    def updated(self, stage: int, worker: int, index: int, batch: int) -> Process:
        """Wait until a shared block has the weights of the batch before; what the exchange took of a CPU comes now.
        Blocks that travel together are updated together, before the first of them."""
        place, block, link = self.plan.stages[stage], self.profile.blocks[index], self.cluster.link
        if len(place.shares) == 1:
            return
        if place.by_batch:
            yield from self.exchanged_all(stage, range(index, index + 1), batch)
            yield from self.spend(worker, link.receiver * block.state_bytes + link.message)
            yield from self.compute(worker, block.handover / 2)
            return
        bucket = self.bucket_of[stage][index]
        if index != bucket[0]:
            return
        yield from self.exchanged_all(stage, bucket, batch)
        many, exchange = len(place.shares), self.cluster.exchange
        sent = sum(self.exchanged(each, many) for each in bucket) * (link.sender + link.receiver)
        blocks = [self.profile.blocks[each] for each in bucket]
        own = sum(each.step / self.slices(many) + each.add * exchange.added(many) + each.lanes for each in blocks)
        if self.profile.on_cpu:
            sent += exchange.messages(many) * sum(each.exchange for each in blocks)
        yield from self.spend(worker, sent + 2 * exchange.messages(many) * link.message)
        yield from self.compute(worker, own if self.profile.on_cpu else 0.0)

    def exchanged_all(self, stage: int, bucket: range, batch: int) -> Process:
        """Wait until these blocks' exchanges of a batch are done."""
        many = len(self.plan.stages[stage].shares)
        begun = self.events.now
        for index in bucket:
            yield self.exchanges.setdefault((stage, index, batch), GradientExchange(many)).done
        self.waited += self.events.now - begun

    def exchanged(self, index: int, workers: int) -> float:
        """Bytes of a block's gradients and weights, and running statistics, that each of its workers sends."""
        block = self.profile.blocks[index]
        num_bytes = self.cluster.exchange.sent(float(block.gradient_bytes), workers, weights=self.profile.sliced)
        return num_bytes + self.cluster.exchange.running(
            block.running_bytes * self.profile.microbatches, workers, self.plan.lanes
        )

    def slices(self, workers: int) -> int:
        """The number of slices that an update is cut into."""
        return workers if self.profile.sliced and self.cluster.exchange.is_sliced(workers) else 1

    def later(self, delay: float, act: Callable[[], None]) -> None:
        """Act when so many simulated seconds have gone by."""

        def process() -> Process:
            yield delay
            act()

        self.events.start(process())

    def wake_worker(self, worker: int) -> None:
        if not self.wake[worker].fired:
            self.events.fire(self.wake[worker])


class GradientExchange:
    """The exchange of one block's gradients of one batch."""

    def __init__(self, workers: int) -> None:
        self.missing = workers
        self.begun = False
        self.seconds = 0.0
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
