"""The cost of blocks i..j to a worker that computes so many lanes of them beside so many others: for search and price
alike.

A batch is cut into L lanes of m messages. With c_b the seconds of block b for one lane (forward and backward), a worker
that has A of the L lanes of a stage of W workers takes, in each batch,

    busy    A sum c_b + (A - 1) sum add_b + step, and where W > 1 its part in adding and sending gradients; where each
            worker updates a slice (`ExchangeCost`), step / W. On a CPU, what messages take beside their bytes, too
    out     A lanes' output that go to another worker, 2 G (W - 1) / W bytes of gradients, and (W - 1) / W of all lanes'
            running statistics, over the link's rate
    in      the same of what comes
    cycle   from a block's first lane to its last one, and then the exchange of its gradients, and of those that travel
            with them, with what its messages and the update take of computing: the new weights are needed when the next
            batch comes to the first of these blocks. max over such buckets b of
            (A - 1) sum c + c_b + exchange_b; 0 where W = 1

By batch, where W workers take whole batches in turn and hand on S bytes of what blocks have learned,

    busy    1 / W of what one worker has to do, and of giving and taking S
    out     1 / W of the batch's output, and of S
    cycle   a block's whole batch, its step, and S_b on its way, given and taken: the next batch waits. max over b

and no batch can take less than the largest of these, of any worker: that is the price of a plan. What else the stages'
order and full queues bring is for the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from math import ceil, log2
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffdist.pipeline.bucket import bucket_sizes
from ffdist.pipeline.by_batch import OTHER_FRAMES, frames_of
from ffdist.planner.cluster import Cluster, ExchangeRound
from ffdist.planner.profile import Profile


class WorkerLoad(NamedTuple):
    """The load of a worker of a stage in each batch, by its number of lanes A."""

    lane: float
    """Seconds busy: A lane + fixed; sending and receiving lanes left out."""
    fixed: float
    exchanged: float
    """Bytes of gradients and weights that it sends, and gets."""
    alone: float
    """Seconds of its cycle, where it is not the only worker: (A - 1) alone + longest."""
    longest: float


def costs_of(profile: Profile, cluster: Cluster, lanes: int) -> PlanCosts:
    """The costs, made once a profile: they depend on the cluster's link, exchange and queue alone."""
    key = (cluster.link, cluster.exchange, cluster.queue, lanes)
    if key not in profile.kept:
        profile.kept[key] = PlanCosts(profile, cluster, lanes)
    return profile.kept[key]


Array = npt.NDArray[np.float64]


def running_max(each: Array) -> Array:
    """The largest of blocks i..j, at [i, j]; 0 for no blocks. each: of [block, ...], none below 0."""
    size = len(each)
    later = np.arange(size)[:, None] <= np.arange(size)[None, :]
    of_each = np.where(later.reshape(size, size, *(1,) * (each.ndim - 1)), each[None], 0.0)
    found = np.maximum.accumulate(of_each, axis=1)
    return np.concatenate([np.zeros_like(found[:, :1]), found], axis=1)


class ExchangeSum(NamedTuple):
    """All rounds of an exchange together, as of `ExchangeRound`."""

    gradients: float
    running: float
    messages: int
    number: int
    """The number of rounds."""

    @classmethod
    def of(cls, rounds: Sequence[ExchangeRound]) -> ExchangeSum:
        """The sum of these rounds."""
        return cls(
            sum(each.gradients for each in rounds),
            sum(each.running for each in rounds),
            sum(each.messages for each in rounds),
            len(rounds),
        )


class PlanCosts:
    """Costs of a profile on a cluster, with a number of lanes; i..j are the blocks from i on to before j."""

    def __init__(self, profile: Profile, cluster: Cluster, lanes: int) -> None:
        self.profile = profile
        self.cluster = cluster
        self.lanes = lanes
        self.size = len(profile.blocks)
        samples, parts = profile.message(lanes), profile.microbatches
        blocks = profile.blocks
        self.lane = [parts * (block.forward.at(samples) + block.backward.at(samples)) for block in blocks]
        """Seconds of one lane, by block; with reading and preparing it at the first one, where a CPU does both."""
        if lanes > 1:
            self.lane = [lane + block.lane for lane, block in zip(self.lane, blocks, strict=True)]
        if profile.on_cpu:
            self.lane[0] += parts * profile.source.at(samples)
        self.step = [block.step for block in blocks]
        self.after_lanes = [block.lanes if lanes > 1 else 0.0 for block in blocks]
        self.gradients = [float(block.gradient_bytes) for block in blocks]
        self.message = [0.0, *(samples * block.sent for block in blocks[:-1]), 0.0]
        """Bytes of a message before each block, and after the last one."""
        self.crossing = [parts * size for size in self.message]
        """Bytes of a lane there."""
        link = cluster.link
        self.sending = [link.sending(size, parts) if size else 0.0 for size in self.crossing]
        """Seconds of computing that a lane takes there of who sends it, ..."""
        self.receiving = [link.receiving(size, parts) if size else 0.0 for size in self.crossing]
        """... and of who gets it."""
        self.graph = [block.graph.at(samples) for block in blocks]
        self.weights = [float(block.weight_bytes) for block in blocks]
        self.moments = [float(block.moment_bytes) for block in blocks]
        self._sums = {
            name: [0.0, *accumulate(values)]
            for name, values in {
                "lane": self.lane,
                "step": self.step,
                "after_lanes": self.after_lanes,
                "exchange": [block.exchange for block in blocks],
                "handover": [block.handover for block in blocks],
                "add": [block.add for block in blocks],
                "gradients": self.gradients,
                "running": [float(parts * block.running_bytes) for block in blocks],
                "weights": self.weights,
                "moments": self.moments,
            }.items()
        }
        self._longest: dict[tuple[int, int, int, float], float] = {}
        self._buckets: dict[tuple[int, int, int], list[int]] = {}
        self._rounds: dict[tuple[int, bool], ExchangeSum] = {}
        self._loads: dict[tuple[int, int, int, float], WorkerLoad] = {}

    def total(self, name: str, i: int, j: int) -> float:
        """The sum of one cost over blocks i..j."""
        sums = self._sums[name]
        return sums[j] - sums[i]

    def each(self, name: str) -> Array:
        """One cost of each block."""
        return np.diff(np.array(self._sums[name]))

    def totals(self, name: str) -> Array:
        """`total` of all blocks, at [i, j]."""
        sums = np.array(self._sums[name])
        return sums[None, :] - sums[:-1, None]

    @cached_property
    def largest_graph(self) -> list[list[float]]:
        """The most bytes that one of blocks i..j needs at work, at [i][j - i - 1]."""
        return [list(accumulate(self.graph[i:], max)) for i in range(self.size)]

    def slices(self, workers: int) -> int:
        """The number of parts that the optimiser's work and moments are cut into."""
        return workers if self.profile.sliced and self.cluster.exchange.is_sliced(workers) else 1

    def rounds(self, i: int, j: int, workers: int) -> tuple[ExchangeRound, ...]:
        """The rounds of what so many workers exchange of a stage with blocks i..j."""
        num_bytes = self.total("gradients", i, j)
        return self.cluster.exchange.rounds(workers, self.lanes, num_bytes, weights=self.profile.sliced)

    def sent(self, i: int, j: int, each: ExchangeRound) -> float:
        """Bytes of blocks i..j that each of the workers sends in a round, and gets."""
        return each.gradients * self.total("gradients", i, j) + each.running * self.total("running", i, j)

    def all_rounds(self, i: int, j: int, workers: int) -> ExchangeSum:
        """The sum of all `rounds`."""
        num_bytes = self.total("gradients", i, j)
        key = (workers, self.cluster.exchange.is_halved(workers, self.lanes, num_bytes))
        if key not in self._rounds:
            self._rounds[key] = ExchangeSum.of(self.rounds(i, j, workers))
        return self._rounds[key]

    def exchanged(self, i: int, j: int, workers: int) -> float:
        """The bytes that each of the workers of a stage with blocks i..j sends in all rounds, and gets."""
        return self._bytes_of(i, j, self.all_rounds(i, j, workers))

    def _bytes_of(self, i: int, j: int, rounds: ExchangeSum) -> float:
        return rounds.gradients * self.total("gradients", i, j) + rounds.running * self.total("running", i, j)

    def messages(self, i: int, j: int, each: ExchangeRound, buckets: int = 1) -> float:
        """Seconds of computing that each of the workers loses with a round, where blocks i..j travel in so many
        buckets."""
        link = self.cluster.link
        blocks = self.total("exchange", i, j) if self.profile.on_cpu else 0.0
        of_bytes = self.sent(i, j, each) * (link.sender + link.receiver)
        return of_bytes + each.messages * (blocks + 2 * buckets * link.message)

    def update(self, i: int, j: int, workers: int) -> float:
        """Seconds of adding up what others have sent, and of the step."""
        added = self.total("add", i, j) * self.cluster.exchange.added(workers)
        return self.total("step", i, j) / self.slices(workers) + added + self.total("after_lanes", i, j)

    def fixed(self, i: int, j: int, workers: int, speed: float) -> float:
        """The part of `busy` that does not grow with the lanes."""
        own = (self.update(i, j, workers) - self.total("add", i, j)) / speed
        if workers == 1:
            return own
        buckets = len(self.bucket_sizes(i, j, workers))
        return own + self.all_messages(i, j, self.all_rounds(i, j, workers), buckets)

    def all_messages(self, i: int, j: int, rounds: ExchangeSum, buckets: int = 1) -> float:
        """The sum of `messages` over all rounds. rounds: of the stage of which blocks i..j are a part."""
        link = self.cluster.link
        blocks = self.total("exchange", i, j) if self.profile.on_cpu else 0.0
        of_bytes = self._bytes_of(i, j, rounds) * (link.sender + link.receiver)
        return of_bytes + rounds.messages * (blocks + 2 * buckets * link.message)

    def bucket_sizes(self, i: int, j: int, workers: int) -> list[int]:
        """The numbers of blocks of i..j that travel together, in order."""
        key = (i, j, self.cluster.exchange.parts(workers))
        if key not in self._buckets:
            self._buckets[key] = bucket_sizes([block.gradient_bytes for block in self.profile.blocks[i:j]], key[2])
        return self._buckets[key]

    def per_lane(self, i: int, j: int, speed: float) -> float:
        """Seconds of computing one lane, with adding its gradients to another's."""
        return (self.total("lane", i, j) + self.total("add", i, j)) / speed

    def busy(self, i: int, j: int, lanes: int, workers: int, speed: float) -> float:
        """Seconds of computing a batch; sending and receiving lanes left out."""
        return lanes * self.per_lane(i, j, speed) + self.fixed(i, j, workers, speed)

    def longest(self, i: int, j: int, workers: int, speed: float) -> float:
        """Seconds from a block's start in its only lane to the end of its exchange, of the block with the most: it
        begins after the last of the blocks that travel together, and all are updated before the first of them."""
        key = (i, j, workers, speed)
        if key not in self._longest:
            ends = [i, *(i + end for end in accumulate(self.bucket_sizes(i, j, workers)))]
            rounds = self.all_rounds(i, j, workers)
            self._longest[key] = max(
                self.total("lane", first, end) / speed + self.exchange(first, end, workers, speed, rounds)
                for first, end in pairwise(ends)
            )
        return self._longest[key]

    def exchange(self, i: int, j: int, workers: int, speed: float, rounds: ExchangeSum) -> float:
        """Seconds from the last gradient of blocks that travel together until a worker may compute with their new
        weights. rounds: of their stage."""
        link = self.cluster.link
        on_the_way = link.on_the_way(self._bytes_of(i, j, rounds)) + rounds.number * link.latency
        return on_the_way + self.all_messages(i, j, rounds) + self.update(i, j, workers) / speed

    def load(self, i: int, j: int, workers: int, speed: float) -> WorkerLoad:
        """The load of one of so many workers of a stage i..j; kept, as the search asks for the same ones again."""
        key = (i, j, workers, speed)
        if key not in self._loads:
            shared = workers > 1
            self._loads[key] = WorkerLoad(
                self.per_lane(i, j, speed),
                self.fixed(i, j, workers, speed),
                self.exchanged(i, j, workers),
                self.total("lane", i, j) / speed if shared else 0.0,
                self.longest(i, j, workers, speed) if shared else 0.0,
            )
        return self._loads[key]

    def cycle(self, i: int, j: int, lanes: int, workers: int, speed: float) -> float:
        """Seconds from a block's first lane to its new weights, of the block with the most; 0 for a worker alone."""
        if workers == 1:
            return 0.0
        return (lanes - 1) * self.total("lane", i, j) / speed + self.longest(i, j, workers, speed)

    def state(self, i: int, j: int) -> float:
        """Bytes of all that blocks i..j have learned."""
        return self.total("weights", i, j) + self.total("moments", i, j)

    def by_batch_busy(self, i: int, j: int, workers: int, speed: float) -> float:
        """Seconds of computing a batch, on average, of each of the workers that take whole batches in turn."""
        link = self.cluster.link
        handing = self.total("handover", i, j) / speed
        handing += self.state(i, j) * (link.sender + link.receiver) + 2 * (j - i) * link.message
        return (self.busy(i, j, self.lanes, 1, speed) + handing) / workers

    def by_batch_cycle(self, i: int, j: int, speed: float) -> float:
        """Seconds from a block's batch to its next one, of the block with the most. Lanes go through all blocks one
        after the other, so that a block has learned with the last of them, and the next batch's first waits for it."""
        longest = max(self.by_batch_longest(block, speed) for block in range(i, j))
        return (self.lanes - 1) * self.total("lane", i, j) / speed + longest

    def by_batch_longest(self, index: int, speed: float) -> float:
        """Seconds from a block's last lane to its next batch."""
        block, link = self.profile.blocks[index], self.cluster.link
        own = (self.lane[index] + self.step[index] + self.after_lanes[index] + block.handover) / speed
        own += link.on_the_way(float(block.state_bytes)) + link.latency
        return own + block.state_bytes * (link.sender + link.receiver) + 2 * link.message

    def by_batch_memory(self, i: int, j: int) -> float:
        """The same as `memory`, with the slots of the edges from the worker before and to the next one: as many as may
        wait there, and one in use, each with room for the largest frame of states."""
        frames = frames_of(j - i)
        largest = max(self.state(i + frame[0], i + frame[-1] + 1) for frame in frames)
        return self.memory(i, j, self.lanes, 1) + 2 * (len(frames) + OTHER_FRAMES + 1) * largest

    def memory(self, i: int, j: int, lanes: int, workers: int) -> float:
        """Bytes of weights, gradients with a buffer a level of the lanes' tree, moments, and on both sides full queues
        and the message in use; the graph of the block at work comes to it, once a worker."""
        buffers = 1 + ceil(log2(lanes)) + (workers > 1)
        return (
            self.total("weights", i, j)
            + buffers * self.total("gradients", i, j)
            + self.total("moments", i, j) / self.slices(workers)
            + (self.cluster.queue + 1) * (self.message[i] + self.message[j])
        )

    def memories(self, lanes: npt.NDArray[np.int64], workers: npt.NDArray[np.int64]) -> Array:
        """`memory` and the largest graph of all blocks, at [i, j, k], for the k-th of these numbers."""
        slices = np.array([self.slices(int(each)) for each in workers])
        buffers = 1 + np.ceil(np.log2(lanes)) + (workers > 1)
        weights, gradients, moments = (self.totals(name)[:, :, None] for name in ("weights", "gradients", "moments"))
        message = np.array(self.message)
        queues = (self.cluster.queue + 1) * (message[:-1, None] + message[None, :])
        at_work = running_max(np.array(self.graph))
        return weights + buffers * gradients + moments / slices + (queues + at_work)[:, :, None]

    def by_batch_slots(self) -> Array:
        """The part of `by_batch_memory` that is not `memory`, at [i, j]."""
        states = np.array([0.0, *accumulate(self.state(block, block + 1) for block in range(self.size))])
        found = np.zeros((self.size, self.size + 1))
        for blocks in range(1, self.size + 1):
            starts = np.arange(self.size + 1 - blocks)
            frames = frames_of(blocks)
            largest = np.max([states[starts + each.stop] - states[starts + each.start] for each in frames], axis=0)
            found[starts, starts + blocks] = 2 * (len(frames) + OTHER_FRAMES + 1) * largest
        return found
