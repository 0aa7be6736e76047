"""The two things that workers of a stage may share: every batch, by its lanes (`by_lane.py`), or the batches
(`by_batch.py`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch

from ffdist.errors import StageError
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.stage_group import StageGroup


class Sharing(Protocol):
    """One worker's view of how its stage's batches are shared. A block is named by its number in the stage."""

    reduces_with: StageGroup | None
    """The workers with which each block's gradients are added up; None: all of a batch is computed here."""

    def take(self, number: int, order: int) -> None:
        """Called before block `number` computes anything of batch `order`: what others have taught it comes in."""
        ...

    def give(self, number: int, step: int, order: int) -> None:
        """Called after the block's update."""
        ...

    def count(self, order: int) -> None:
        """Called after a message of evaluation, which has added to the blocks' totals."""
        ...

    def give_up_evaluation(self) -> None:
        """Forget what evaluation has counted since the last marker: the blocks' totals are those of training again."""
        ...

    def settle(self, step: int) -> None:
        """Called at a marker: afterwards every worker has all that has been learned."""
        ...

    def share_totals(self, step: int) -> None:
        """Every block's totals become those of all workers, to the bits of one that computes alone."""
        ...

    def blocks_to_save(self, reductions: Sequence[Reduction], step: int) -> Iterator[list[LearningBlock]]:
        """Blocks that this worker writes, whole while the iterator stands at them; none where another does.

        Raises StageError where the workers do not hold the same.
        """
        ...


def check_replicas(group: StageGroup, blocks: Sequence[LearningBlock], step: int, sliced: Collection[str] = ()) -> None:
    """Raises StageError where the workers do not hold the same. sliced: the names of blocks of whose moments each has
    a slice."""
    mine = {block.spec.name: digest_of(block, moments=block.spec.name not in sliced) for block in blocks}
    frames = group.gather("Digests", step, {}, of=mine)
    for worker, frame in frames.items():
        theirs = frame.fields["of"]
        if differ := [name for name in mine if theirs[name] != mine[name]]:
            raise StageError(
                "two workers hold different weights of a block",
                where=f"block {differ[0]}, batch {step}, workers {group.worker} and {worker}",
                expected=mine[differ[0]],
                got=theirs[differ[0]],
                remedy="the same software and kind of machine for all workers of a stage, and memory that is sound; "
                "the last snapshot is whole",
            )


def digest_of(block: LearningBlock, *, moments: bool = True) -> str:
    """A digest of all that a snapshot would hold of the block, with its moments or without."""
    tensors, fields = block.state()
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        if not moments and name.startswith("optimizer."):
            continue
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
