"""Blocks whose gradients travel together: few enough frames a batch that nobody waits for room in the middle of one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from ffdist.pipeline.halving import Halving
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.stage_group import GRADIENTS, SLICES, StageGroup
from ffdist.transport.base import Frame

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
        self.number = number
        self.sliced = any(len(reduction.slices) > 1 for reduction in reductions)
        self.halving = reductions[0].halving
        self.step = 0
        self.posted = False
        """Whether this worker's sums of the batch are on their way, and the others' still to be taken."""
        self.pending = False
        """Whether the batch's updates are still to come."""

    def post(self, step: int) -> None:
        """Send the others what the blocks' lanes here have added up to; called when the last block has learned from its
        last lane here."""
        self.step, self.posted, self.pending = step, True, True
        if self.halving:
            self._post_half(0)
            return
        collected = [reduction.collect() for reduction in self.reductions]
        if self.group is None:
            return
        fields = self._fields([header for header, _ in collected])
        frames = [
            Frame(
                GRADIENTS,
                fields,
                of_blocks([slices[place] for _, slices in collected]),
            )
            for place in range(len(collected[0][1]))
        ]
        self._post(frames)

    def _fields(self, headers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        assert self.group
        return {"step": self.step, "bucket": self.number, "blocks": headers, **self.group.announcements(self.step)}

    def advance(self) -> None:
        """Take what the others have posted, and add it up.

        Only after the batch, when all that is computed here of it is on its way: another worker may wait until what
        follows has taken it.
        """
        if not self.posted:
            return
        self.posted = False
        if self.halving:
            self._advance_by_halves(self.halving)
            return
        frames = self.group.take(GRADIENTS, self.number) if self.group else {}
        began = time.perf_counter()
        with self._adding_up():
            for frame in frames.values():
                for i, (reduction, fields) in enumerate(zip(self.reductions, frame.fields["blocks"], strict=True)):
                    reduction.receive(fields, of_block(i, frame))
            for reduction in self.reductions:
                reduction.add_up()
        if self.group:
            self.group.receive_announcements(frames.values())
            self.group.exchanging += time.perf_counter() - began
        if self.sliced:
            self._hand_on()

    def _advance_by_halves(self, halving: Halving) -> None:
        """All rounds but the last."""
        assert self.group
        for level in range(halving.levels):
            if level:
                self._post_half(level)
            frame = self._take_half(GRADIENTS, level)
            with self.group.exchanges("add up gradients"):
                for i, (reduction, fields) in enumerate(zip(self.reductions, frame.fields["blocks"], strict=True)):
                    reduction.receive_half(level, fields, of_block(i, frame))
        with self.group.exchanges("add up gradients"):
            for reduction in self.reductions:
                reduction.add_up()
                reduction.update_own()
        for level in reversed(range(halving.levels)):
            updates = [reduction.collect_updates(level) for reduction in self.reductions]
            self._send_half(level, Frame(SLICES, {"bucket": self.number}, of_blocks(updates)))
            if level:
                self._take_updates(level)

    def _post_half(self, level: int) -> None:
        """Send what the one other worker of a level needs."""
        collected = [reduction.collect_half(level) for reduction in self.reductions]
        fields = self._fields([header for header, _ in collected])
        self._send_half(level, Frame(GRADIENTS, fields, of_blocks([tensors for _, tensors in collected])))

    def _send_half(self, level: int, frame: Frame) -> None:
        assert self.group
        self.group.post({self._other(level): frame})

    def _take_half(self, kind: str, level: int) -> Frame:
        assert self.group
        frame = self.group.take(kind, self.number, [self._other(level)])[self._other(level)]
        if kind == GRADIENTS:
            self.group.receive_announcements([frame])
        return frame

    def _take_updates(self, level: int) -> None:
        frame = self._take_half(SLICES, level)
        for i, reduction in enumerate(self.reductions):
            reduction.receive_updates(level, of_block(i, frame))

    def _other(self, level: int) -> int:
        """The worker that this one exchanges with at a level."""
        assert self.group
        assert self.halving
        return self.group.shares[self.halving.other(level)].worker

    def _hand_on(self) -> None:
        """Update this worker's slice of each block, and send it to the others."""
        tensors = of_blocks([reduction.update_own() for reduction in self.reductions])
        self._post([Frame(SLICES, {"bucket": self.number}, tensors)])

    def _post(self, frames: Sequence[Frame]) -> None:
        """A frame for all, or one for each of the stage's workers."""
        assert self.group
        by_worker = {share.worker: frames[place % len(frames)] for place, share in enumerate(self.group.shares)}
        del by_worker[self.group.worker]
        self.group.post(by_worker)

    def finish(self) -> None:
        """Update the blocks by the batch that was posted; no sooner than `advance` may be called."""
        if not self.pending:
            return
        self.advance()
        self.pending = False
        frames = None
        if self.halving:
            self._take_updates(0)
        elif self.group and self.sliced:
            frames = self.group.take(SLICES, self.number)
        began = time.perf_counter()
        places = {share.worker: place for place, share in enumerate(self.group.shares)} if self.group else {}
        with self._adding_up():
            for i, reduction in enumerate(self.reductions):
                others = {places[worker]: of_block(i, frame) for worker, frame in frames.items()} if frames else None
                reduction.apply(others)
        if self.group:
            self.group.exchanging += time.perf_counter() - began

    def _adding_up(self) -> AbstractContextManager[None]:
        return self.group.trace.span("add up gradients", "exchange") if self.group else nullcontext()


def of_blocks(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all blocks, named by their numbers, too."""
    return {f"{i} {name}": value for i, each in enumerate(tensors) for name, value in each.items()}


def of_block(number: int, frame: Frame) -> dict[str, Tensor]:
    """The part of a bucket's frame that belongs to one block."""
    prefix = f"{number} "
    return {name.removeprefix(prefix): value for name, value in frame.tensors.items() if name.startswith(prefix)}


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
    groups: list[list[int]] = []
    for size in sizes[: len(sizes) - len(alone)]:
        if groups and sum(groups[-1]) + size <= SMALL * slices:
            groups[-1].append(size)
        else:
            groups.append([size])
    groups += [[size] for size in alone]
    return [len(group) for group in groups] if len(groups) <= MAX_BUCKETS else equal_bucket_sizes(sizes)


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
