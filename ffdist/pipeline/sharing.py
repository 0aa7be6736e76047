"""The exchange between workers of a stage at markers: counts, digests, and their parts of the optimiser's state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch

from ffdist.errors import StageError
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.stage_group import StageGroup
from ffdist.transport.base import Frame


def share_totals(group: StageGroup, blocks: Sequence[LearningBlock], step: int) -> None:
    """Take every lane's totals from the worker that has it: what is counted is the same on all."""
    tensors = {block.spec.name: block.totals.clone() for block in blocks}  # what was sent may not change
    frames = group.gather("Totals", group.announcements(step), tensors)
    group.receive_announcements(frames.values())
    for share in group.shares:
        rows = slice(share.lanes.start, share.lanes.stop)
        for block in blocks:
            block.totals[rows] = frames[share.worker].tensors[block.spec.name][rows].to(block.totals.device)


def check_replicas(group: StageGroup, blocks: Sequence[LearningBlock], step: int, sliced: Collection[str] = ()) -> None:
    """Raises StageError where the workers do not hold the same. sliced: the names of blocks of whose moments each has
    a slice."""
    mine = {block.spec.name: digest_of(block, moments=block.spec.name not in sliced) for block in blocks}
    frames = group.gather("Digests", {"of": mine}, {})
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


@contextmanager
def gathered(group: StageGroup, reduction: Reduction) -> Iterator[bool]:
    """A context in which the worker that leads the others has all of the block, the optimiser's state too; whether this
    is it."""
    own, moments = reduction.own, []
    if own and not group.leads:
        group.post({group.shares[0].worker: Frame("Moments", {}, own.moments())})
    if own and group.leads:
        frames = group.take("Moments")
        moments = [own.moments(), *(frames[share.worker].tensors for share in group.shares[1:])]
    if not group.leads:
        yield False
        return
    with reduction.whole(moments):
        yield True
