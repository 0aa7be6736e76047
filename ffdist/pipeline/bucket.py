"""Blocks whose gradients travel together: few enough frames a batch that nobody waits for room in the middle of one."""

from __future__ import annotations

from collections.abc import Sequence

from ffdist.pipeline.exchange import exchange_of
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.stage_group import StageGroup

MAX_BUCKETS = 4
"""The most buckets of a stage: an edge holds the frames of a whole batch, so that nobody waits for room in the middle
of one."""
SPARE_FRAMES = 3
"""What else may wait on such an edge. A frame a bucket is enough that nobody waits in a circle: whoever is furthest
behind has room for all that it posts before it takes the others' like. With these one that is ahead need not wait
while slices of the batch before still lie there; it gets no further than the others' slices let it, so more would be
memory for little."""
SMALL = 128 * 2**10
"""Bytes of gradients that consecutive blocks send in one message: its own cost is more than that of so many bytes."""
MIN_SLICES = 16
"""The slices from which on a stage's last block travels with others, too: what a message to each worker takes is more
than what hides behind that block."""


class Bucket:
    """Consecutive blocks of a stage whose gradients travel together."""

    def __init__(self, reductions: Sequence[Reduction], group: StageGroup | None, number: int = 0) -> None:
        self.reductions = list(reductions)
        self.group = group
        self.exchange = exchange_of(self.reductions, group, number)
        self.sliced = any(len(reduction.slices) > 1 for reduction in reductions)
        self.step = 0
        self.posted = False
        """Whether this worker's sums of the batch are on their way, and the others' still to be taken."""
        self.pending = False
        """Whether the batch's updates are still to come."""

    def post(self, step: int) -> None:
        """Send the others what the blocks' lanes here have added up to; called when the last block has learned from its
        last lane here."""
        self.step, self.posted, self.pending = step, True, True
        self.exchange.post(step)

    def advance(self) -> None:
        """Take what the others have posted, and add it up.

        Only after the batch, when all that is computed here of it is on its way: another worker may wait until what
        follows has taken it.
        """
        if self.posted:
            self.posted = False
            self.exchange.add_up()

    def finish(self) -> None:
        """Update the blocks by the batch that was posted; no sooner than `advance` may be called."""
        if self.pending:
            self.advance()
            self.pending = False
            self.exchange.update()


def in_buckets(reductions: Sequence[Reduction], group: StageGroup | None) -> list[Bucket]:
    """Few enough that an edge holds a batch's, and of like size; a block each where nothing is exchanged."""
    sizes = [reduction.flat.num_bytes for reduction in reductions]
    slices = max((len(reduction.slices) for reduction in reductions), default=1)
    counts = [1] * len(sizes) if group is None else bucket_sizes(sizes, slices)
    left = iter(reductions)
    return [Bucket([next(left) for _ in range(count)], group, number) for number, count in enumerate(counts)]


def bucket_sizes(sizes: Sequence[int], slices: int = 1) -> list[int]:
    """The numbers of consecutive blocks that travel together, of blocks with so many bytes of gradients; the last block
    alone, as the others' exchange hides behind it.

    slices: how many each block is cut into, of which a message has one; from MIN_SLICES on the last block is as any.
    """
    alone = sizes[-1:] if slices < MIN_SLICES else []
    counts: list[int] = []
    so_far = 0
    for size in sizes[: len(sizes) - len(alone)]:
        if counts and so_far + size <= SMALL * slices:
            counts[-1] += 1
        else:
            counts.append(1)
            so_far = 0
        so_far += size
    counts += [1] * len(alone)
    return counts if len(counts) <= MAX_BUCKETS else equal_bucket_sizes(sizes)


def equal_bucket_sizes(sizes: Sequence[int]) -> list[int]:
    """The sizes where `bucket_sizes` are too many: at most MAX_BUCKETS, each begun when the ones before have their
    equal part of all bytes."""
    whole = sum(sizes) or 1
    counts = [0]
    so_far = 0
    for size in sizes:
        if counts[-1] and so_far * MAX_BUCKETS >= whole * len(counts) and len(counts) < MAX_BUCKETS:
            counts.append(0)
        counts[-1] += 1
        so_far += size
    return counts
