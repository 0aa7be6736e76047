"""Are the machine's cores really as many as it says? Matrix products in several processes at once against one's.

Virtual CPUs sometimes share a physical core, or have a busy neighbour: two processes then do 1.1 times the work of one
instead of twice, and a comparison of processes in such a minute says nothing.
"""

from __future__ import annotations

import time
from statistics import mean
from typing import NamedTuple

import torch

from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool

SECONDS = 0.12
SHARE = 0.9
"""The share of the ideal (processes times one's work) below which a round is discarded: 1.8 for two processes."""


class Rates(NamedTuple):
    """Products a second that one process made."""

    by_clock: float
    computing: float
    """The rate over the seconds in which it had a core: what the core can do, whoever else wants it."""


def _multiply(member: PoolMember) -> None:
    """Each order is the time to begin at; the answer is `Rates`."""
    torch.set_num_threads(1)
    a = torch.rand(256, 256)
    while (begin := member.next_order()) is not None:
        while time.monotonic() < begin:  # the others begin at the same instant
            pass
        count, begun, computed = 0, time.perf_counter(), time.thread_time()
        while time.perf_counter() - begun < SECONDS:
            torch.mm(a, a)
            count += 1
        member.answer(Rates(count / (time.perf_counter() - begun), count / (time.thread_time() - computed)))


class Probe(WorkerPool):
    """Processes, as many as a comparison uses, whose products are timed; `measure` takes about (n + 1) * 0.15 seconds.

    A neighbour that slows one process as much as all does not show in their quotient. So one's work is the best that
    was ever measured here, and counts by the time in which it had its core: other work of this machine shows even if
    it was there all along.
    """

    def __init__(self, processes: int) -> None:
        super().__init__("probe", _multiply, processes)
        for _ in range(2):  # the first products load the library
            self._rates(range(processes))
        self.alone = 0.0
        """Products of 256 x 256 matrices a second by one process alone, at best."""

    @property
    def required(self) -> float:
        """The rate that a round needs before and after it."""
        return SHARE * self.size if self.size > 1 else 0.0

    def measure(self) -> float:
        """All at once against one alone at its best: at most the number of processes, or hardly more."""
        self.alone = max(self.alone, mean(self._rates([rank])[0].computing for rank in range(self.size)))
        return sum(rates.by_clock for rates in self._rates(range(self.size))) / self.alone

    def _rates(self, ranks: range | list[int]) -> list[Rates]:
        self.send(time.monotonic() + 0.02, list(ranks))
        return [self.recv() for _ in ranks]
