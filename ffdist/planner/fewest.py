"""The numbers of workers that may do blocks i..j in a time: those that the search does not have to try are left out.

A stage of W workers shares L lanes, so one of them has at least L / W, rounded up. Where even the fastest device cannot
compute so many in the time, with what the exchange of gradients takes at least, or its link not carry it, or its memory
not hold it, W workers are too few, or too many. For all blocks, and all numbers of workers, that is a few operations on
whole arrays; what they leave is looked at one by one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ffdist.planner.cost import Array, ExchangeSum, PlanCosts, running_max

ROUNDING = 1e-9
"""What sums may differ by, that are added up in another order; as a share."""


class FewestWorkers:
    """The bounds for one number of lanes; arrays of [first block, first block after the last, workers - 1]."""

    def __init__(self, costs: PlanCosts, speed: float, workers: int) -> None:
        """speed: of the fastest device. workers: how many there may be."""
        self.workers = np.arange(1, workers + 1)
        self.most = -(-costs.lanes // self.workers)
        """The lanes that one of the workers has at least."""
        exchanges = [self._least_exchange(costs, each) for each in range(1, workers + 1)]
        slices = np.array([costs.slices(each) for each in range(1, workers + 1)])
        added = np.array([costs.cluster.exchange.added(each) for each in range(1, workers + 1)])
        gradients, running, messages, rounds = (np.array(each, float) for each in zip(*exchanges, strict=True))
        link, on_cpu = costs.cluster.link, costs.profile.on_cpu

        def total(name: str) -> Array:
            return costs.totals(name)[:, :, None]

        def update(step: Array, add: Array, after_lanes: Array) -> Array:
            return step / slices + add * added + after_lanes

        def lost(num_bytes: Array, exchange: Array) -> Array:
            blocks = exchange if on_cpu else 0.0
            return num_bytes * (link.sender + link.receiver) + messages * (blocks + 2 * link.message)

        self.exchanged: Array = gradients * total("gradients") + running * total("running")
        lane, add = total("lane"), total("add")
        own = (update(total("step"), add, total("after_lanes")) - add) / speed
        self.fixed: Array = own + lost(self.exchanged, total("exchange"))
        self.lane: Array = (lane + add) / speed
        self.alone: Array = lane / speed

        def block(name: str) -> Array:
            return costs.each(name)[:, None]

        sent = gradients * block("gradients") + running * block("running")
        on_the_way = sent * link.on_the_way(1.0) + rounds * link.latency
        updated = update(block("step"), block("add"), block("after_lanes"))
        each = (block("lane") + updated) / speed + on_the_way + lost(sent, block("exchange"))
        self.longest: Array = running_max(each) * (self.workers > 1)
        self.carrying: Array = self.exchanged * link.carrying(1.0)
        self.costs = costs

    @cached_property
    def memory(self) -> Array:
        """Bytes of that worker."""
        return self.costs.memories(self.most, self.workers)

    @staticmethod
    def _least_exchange(costs: PlanCosts, workers: int) -> ExchangeSum:
        """The least of each kind: whether workers add up by halves is a matter of the gradients' bytes."""
        smallest = min(range(costs.size), key=costs.gradients.__getitem__)
        pairs = zip(
            costs.all_rounds(smallest, smallest + 1, workers), costs.all_rounds(0, costs.size, workers), strict=True
        )
        gradients, running, messages, number = map(min, pairs)
        return ExchangeSum(gradients, running, int(messages), int(number))

    def within(self, seconds: float, limit: float) -> npt.NDArray[np.int64]:
        """The first number from each one on that may do blocks i..j in that time, with so many bytes each, at
        [i, j, number - 1]; one more than there may be for none."""
        upto = seconds * (1 + ROUNDING)
        can = (self.most * self.lane + self.fixed <= upto) & (self.carrying <= upto)
        can &= (self.workers == 1) | ((self.most - 1) * self.alone + self.longest <= upto)
        if np.isfinite(limit):
            can &= self.memory <= limit * (1 + ROUNDING)
        numbers = np.where(can, self.workers, len(self.workers) + 1)
        return np.minimum.accumulate(numbers[:, :, ::-1], axis=2)[:, :, ::-1]
