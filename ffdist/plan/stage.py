"""A stage of a plan: its blocks, and the workers that share them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ffdist.plan.names import spelled

EVERY_BATCH = range(2**63 - 1)
"""The orders of all batches there may be in a stream."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of a stage: consecutive lanes."""

    worker: int
    lanes: range

    def __str__(self) -> str:
        first, last = self.lanes[0], self.lanes[-1]
        return f"{self.worker}:{first}" + (f"-{last}" if last > first else "")


@dataclass(frozen=True, slots=True)
class PlanStage:
    """Consecutive blocks, and who computes them."""

    blocks: tuple[str, ...]
    shares: tuple[Share, ...]
    """In the order of their lanes; together they have every lane once. By batch, the worker at place p computes
    batches p, p + W, ... of the stream, and each has every lane."""
    by_batch: bool = False
    """Whether each worker computes whole batches in turn, and hands the blocks' weights on to the next."""

    @property
    def workers(self) -> list[int]:
        """Their numbers, in the order of their shares."""
        return [share.worker for share in self.shares]

    @property
    def batch_stride(self) -> int:
        """The distance between two batches of one worker; 1 where each has a part of every batch."""
        return len(self.shares) if self.by_batch else 1

    def worker_of(self, lane: int, order: int = 0) -> int:
        """The worker that computes a lane of batch `order` of the stream."""
        if self.by_batch:
            return self.shares[order % len(self.shares)].worker
        return self.shares[bisect_right(self.shares, lane, key=lambda share: share.lanes.start) - 1].worker

    def workers_of_lanes(self, order: int = 0) -> list[int]:
        """The worker of each lane of batch `order`."""
        shares = (self.shares[order % len(self.shares)],) if self.by_batch else self.shares
        return [share.worker for share in shares for _ in share.lanes]

    def lanes_of(self, worker: int) -> range:
        """The lanes that a worker computes here; of its own batches, where they go by batch."""
        return next(share.lanes for share in self.shares if share.worker == worker)

    def orders_of(self, worker: int, batches: range = EVERY_BATCH) -> range:
        """The orders, of those of `batches`, in which a worker has a part."""
        return batches[self.workers.index(worker) if self.by_batch else 0 :: self.batch_stride]

    def renumbered(self, numbers: Sequence[int]) -> PlanStage:
        """The same with each worker i as numbers[i]."""
        return replace(self, shares=tuple(replace(share, worker=numbers[share.worker]) for share in self.shares))

    @property
    def shared_out(self) -> str:
        """The workers with their parts, as text."""
        if self.by_batch:
            return f"{', '.join(map(str, self.workers))} by batch"
        return str(self.shares[0].worker) if len(self.shares) == 1 else ", ".join(map(str, self.shares))

    def __str__(self) -> str:
        return f"{' '.join(map(spelled, self.blocks))} @ {self.shared_out}"


def spread(workers: Iterable[int], lanes: int) -> tuple[Share, ...]:
    """The lanes shared out evenly, in order."""
    many = list(workers)
    return tuple(
        Share(worker, range(lanes * i // len(many), lanes * (i + 1) // len(many))) for i, worker in enumerate(many)
    )
