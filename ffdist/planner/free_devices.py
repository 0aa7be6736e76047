"""Devices that have no work yet, while a plan is searched: which may be next, and how many a stage may have."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf, isfinite

from ffdist.planner.cluster import Cluster
from ffdist.planner.partial_plan import CLOSE, NextDevices, compositions


class FreeDevices:
    """A cluster's devices by their speeds. Which of them are free is a `PartialPlan.free` everywhere here."""

    def __init__(self, cluster: Cluster) -> None:
        in_order = cluster.fastest(cluster.devices)
        self.speeds = sorted({cluster.speed(device) for device in in_order}, reverse=True)
        """The speed of each kind of device, from the fastest on."""
        self.numbers = [[device for device in in_order if cluster.speed(device) == speed] for speed in self.speeds]
        """The devices of each kind."""
        self.row = tuple(kind for kind, devices in enumerate(self.numbers) for _ in devices)
        """The kinds of all devices, from the fastest on."""
        self.slowest = [0.0, *accumulate(self.speeds[kind] for kind in reversed(self.row))]
        """The speeds of so many of the slowest devices, added up."""
        self.any_order = False
        """Whether any device may be next, and not the fastest one alone."""
        self.timed = False
        """Whether the blocks are to be done in some time."""
        self.least_left: list[float] = []
        """The speeds, added up, that the blocks from each one on need at least: of the devices left, and of the last
        one before them, if it had nothing else to do."""
        self._fewest_left: list[int] = []
        """How many of the slowest devices that is."""
        self._most_new: dict[tuple[tuple[int, ...], int], int] = {}
        self._capacity: dict[tuple[int, ...], float] = {}
        self._next: dict[tuple[tuple[int, ...], int], list[NextDevices]] = {}

    def keep_to(self, seconds: float, work: Sequence[float]) -> None:
        """Have the blocks from each one on, which are so many seconds of work, be done in this time from now on."""
        self.timed = isfinite(seconds)
        self.least_left = [each / (seconds * (1 + CLOSE)) for each in work]
        self._fewest_left = [bisect_left(self.slowest, speeds) for speeds in self.least_left]
        self._most_new = {}

    def all(self) -> tuple[int, ...]:
        """Every device."""
        return tuple(accumulate(map(len, self.numbers))) if self.any_order else (len(self.row),)

    def most_new(self, free: tuple[int, ...], j: int) -> int:
        """The most new workers of a stage, after whom those left can still do the blocks from j on in time."""
        if not self.timed:
            return free[-1]
        if not self.any_order:
            return max(0, min(free[0], free[0] + 1 - self._fewest_left[j]))
        key = (free, j)
        if key not in self._most_new:
            self._most_new[key] = self._most_new_any(free, j)
        return self._most_new[key]

    def _most_new_any(self, free: tuple[int, ...], j: int) -> int:
        """The slowest ones, but for the last: of these the least is left undone."""
        have = [upto - before for upto, before in zip(free, (0, *free), strict=False)]
        kinds = [kind for kind, count in enumerate(have) for _ in range(count)]
        if not kinds:
            return 0
        last, *others = kinds
        left, many = self.capacity(free) - self.speeds[last], 1
        enough = self.least_left[j] - self.speeds[last]
        if left < enough:
            return 0
        for kind in reversed(others):
            left -= self.speeds[kind]
            if left < enough:
                break
            many += 1
        return many

    def capacity(self, free: tuple[int, ...]) -> float:
        """The speeds of the free devices, added up."""
        if free not in self._capacity:
            if self.any_order:
                each = zip(self.speeds, free, (0, *free), strict=False)
                self._capacity[free] = sum(speed * (upto - before) for speed, upto, before in each)
            else:
                self._capacity[free] = self.slowest[free[0]]
        return self._capacity[free]

    def next(self, free: tuple[int, ...], many: int) -> list[NextDevices]:
        """Each choice of so many free devices to be the next ones. The last may have more to do than this stage; the
        others are alike to all but themselves, and come from the fastest on."""
        key = (free, many)
        if key not in self._next:
            if self.any_order:
                self._next[key] = list(self._any_next(free, many))
            else:
                begin = len(self.row) - free[0]
                self._next[key] = [NextDevices(self.row[begin : begin + many], (free[0] - many,), inf)]
        return self._next[key]

    def _any_next(self, free: tuple[int, ...], many: int) -> Iterator[NextDevices]:
        have = [upto - before for upto, before in zip(free, (0, *free), strict=False)]
        for last in range(len(have)):
            if have[last]:
                left = [count - (kind == last) for kind, count in enumerate(have)]
                for taken in compositions(left, many - 1):
                    kinds = tuple(kind for kind, count in enumerate(taken) for _ in range(count))
                    after = tuple(accumulate(count - less for count, less in zip(left, taken, strict=True)))
                    yield NextDevices((*kinds, last), after, self.speeds[last] + self.capacity(after))
