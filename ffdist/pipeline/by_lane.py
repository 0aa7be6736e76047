"""A stage whose workers compute lanes of every batch, or whose one worker computes them all.

Gradients are exchanged within the batch (`bucket.py`), so that every worker has every update; what is left for markers
are counts, which each has of its own lanes, and the moments of those slices that each updates alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.sharing import check_replicas
from ffdist.pipeline.stage_group import StageGroup
from ffdist.transport.base import Frame


class ByLane:
    """A stage whose workers have their lanes of every batch, as one of them sees it: see `Sharing`."""

    def __init__(self, group: StageGroup | None, blocks: Sequence[LearningBlock], lanes: range) -> None:
        """group: None where there is one worker. lanes: those that are computed here."""
        self.reduces_with = group
        self.blocks = list(blocks)
        self.lanes = lanes

    def __str__(self) -> str:
        return f"lanes {self.lanes.start}-{self.lanes.stop - 1}" if self.reduces_with else "every lane"

    def take(self, number: int, order: int) -> None:
        """Do nothing: the bucket's exchange brings what others learned."""

    def give(self, number: int, step: int, order: int) -> None:
        """Do nothing, as `take`."""

    def count(self, order: int) -> None:
        """Do nothing: a lane's totals have a row of their own."""

    def give_up_evaluation(self) -> None:
        """See `Sharing`: every worker has had the rows of all since training ended."""
        for block in self.blocks:
            block.give_up_evaluation()

    def settle(self, step: int) -> None:
        """Do nothing: the stage has finished its buckets."""

    def share_totals(self, step: int) -> None:
        """Take every lane's row from the worker that has it."""
        if not (group := self.reduces_with):
            return
        tensors = {block.spec.name: block.totals.clone() for block in self.blocks}  # what was sent may not change
        frames = group.gather("Totals", step, tensors)
        for share in group.shares:
            rows = slice(share.lanes.start, share.lanes.stop)
            for block in self.blocks:
                block.totals[rows] = frames[share.worker].tensors[block.spec.name][rows].to(block.totals.device)

    def blocks_to_save(self, reductions: Sequence[Reduction], step: int) -> Iterator[list[LearningBlock]]:
        """One after the other where moments are gathered, so that one block's are in memory at a time."""
        if not (group := self.reduces_with):
            yield self.blocks
            return
        check_replicas(
            group, self.blocks, step, [reduction.block.spec.name for reduction in reductions if reduction.own]
        )
        for reduction in reductions:
            with moments_gathered(group, reduction):
                yield [reduction.block] if group.leads else []


@contextmanager
def moments_gathered(group: StageGroup, reduction: Reduction) -> Iterator[None]:
    """A context in which the leading worker's optimiser has all of the block's moments; the others send it theirs."""
    own = reduction.own
    if own and not group.leads:
        group.post({group.shares[0].worker: Frame("Moments", {}, own.moments())})
    if not group.leads:
        yield
        return
    moments = []
    if own:
        frames = group.take("Moments")
        moments = [own.moments(), *(frames[share.worker].tensors for share in group.shares[1:])]
    with reduction.whole(moments):
        yield
