"""The ways in which the workers of a stage exchange the gradients of blocks that travel together.

Each has the same three steps, between which the worker computes: it sends what its lanes have added up to; adds up what
all have sent; and updates the blocks. What is sent, and to whom, differs (`reduce.py`); not a bit of the result does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ffdist.pipeline.halving import Halving
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.stage_group import GRADIENTS, SLICES, StageGroup
from ffdist.transport.base import Frame

ADDING_UP = "add up gradients"
"""The span of a trace."""


class Exchange(Protocol):
    """The way of gradients from the last lane that is computed here to the blocks' updates."""

    def post(self, step: int) -> None:
        """Send the others the sums of this worker's lanes in batch `step`."""
        ...

    def add_up(self) -> None:
        """Take what the others have posted, and add it up; hand on what becomes of it, where each worker adds up a
        part."""
        ...

    def update(self) -> None:
        """Update the blocks."""
        ...


class NoExchange:
    """One worker has all lanes."""

    def __init__(self, reductions: Sequence[Reduction]) -> None:
        self.reductions = reductions

    def post(self, step: int) -> None:
        for reduction in self.reductions:
            reduction.collect()

    def add_up(self) -> None:
        for reduction in self.reductions:
            reduction.add_up()

    def update(self) -> None:
        for reduction in self.reductions:
            reduction.apply()


class WholeExchange:
    """Each worker sends all of its sums to each of the others, and adds up all."""

    def __init__(self, reductions: Sequence[Reduction], group: StageGroup, number: int) -> None:
        """number: the bucket's, by which its frames are told from others'."""
        self.reductions = reductions
        self.group = group
        self.number = number

    def post(self, step: int) -> None:
        collected = [reduction.collect() for reduction in self.reductions]
        fields = gradient_fields(self.group, self.number, step, [header for header, _ in collected])
        self.group.post_all(Frame(GRADIENTS, fields, of_blocks([whole for _, (whole,) in collected])))

    def add_up(self) -> None:
        take_sums(self.reductions, self.group, self.number)

    def update(self) -> None:
        with self.group.exchanges(ADDING_UP):
            for reduction in self.reductions:
                reduction.apply()


class SliceExchange:
    """Each worker sends each of the others that one's slice, adds up its own, updates it, and sends it to all."""

    def __init__(self, reductions: Sequence[Reduction], group: StageGroup, number: int) -> None:
        """number: the bucket's, by which its frames are told from others'."""
        self.reductions = reductions
        self.group = group
        self.number = number
        self.place_of = {share.worker: place for place, share in enumerate(group.shares)}

    def post(self, step: int) -> None:
        collected = [reduction.collect() for reduction in self.reductions]
        fields = gradient_fields(self.group, self.number, step, [header for header, _ in collected])
        self.group.post(
            {
                worker: Frame(GRADIENTS, fields, of_blocks([slices[self.place_of[worker]] for _, slices in collected]))
                for worker in self.group.others
            }
        )

    def add_up(self) -> None:
        take_sums(self.reductions, self.group, self.number)
        updates = of_blocks([reduction.update_own() for reduction in self.reductions])
        self.group.post_all(Frame(SLICES, {"bucket": self.number}, updates))

    def update(self) -> None:
        frames = self.group.take(SLICES, self.number)
        with self.group.exchanges(ADDING_UP):
            for i, reduction in enumerate(self.reductions):
                reduction.apply({self.place_of[worker]: of_block(i, frame) for worker, frame in frames.items()})


class HalfExchange:
    """Slices, in rounds with one other worker in each: a half of the sums that are left in the first ones, and back
    again all updates that are there. Only the first round of sums and the last of updates leave time to compute."""

    def __init__(self, reductions: Sequence[Reduction], group: StageGroup, number: int, halving: Halving) -> None:
        """number: the bucket's, by which its frames are told from others'. halving: the rounds."""
        self.reductions = reductions
        self.group = group
        self.number = number
        self.partners = [group.shares[halving.other(level)].worker for level in range(halving.levels)]
        """The worker with which this one exchanges at each level."""
        self.step = 0

    def post(self, step: int) -> None:
        self.step = step
        self._send_sums(0)

    def add_up(self) -> None:
        for level in range(len(self.partners)):
            if level:
                self._send_sums(level)
            frame = self._take(GRADIENTS, level)
            self.group.receive_announcements([frame])
            with self.group.exchanges(ADDING_UP):
                for i, (reduction, fields) in enumerate(zip(self.reductions, frame.fields["blocks"], strict=True)):
                    reduction.receive_half(level, fields, of_block(i, frame))
        with self.group.exchanges(ADDING_UP):
            for reduction in self.reductions:
                reduction.add_up()
                reduction.update_own()
        for level in reversed(range(len(self.partners))):
            updates = of_blocks([reduction.collect_updates(level) for reduction in self.reductions])
            self.group.post({self.partners[level]: Frame(SLICES, {"bucket": self.number}, updates)})
            if level:
                self._take_updates(level)

    def update(self) -> None:
        self._take_updates(0)
        with self.group.exchanges(ADDING_UP):
            for reduction in self.reductions:
                reduction.apply()

    def _send_sums(self, level: int) -> None:
        collected = [reduction.collect_half(level) for reduction in self.reductions]
        fields = gradient_fields(self.group, self.number, self.step, [header for header, _ in collected])
        sums = of_blocks([tensors for _, tensors in collected])
        self.group.post({self.partners[level]: Frame(GRADIENTS, fields, sums)})

    def _take_updates(self, level: int) -> None:
        frame = self._take(SLICES, level)
        for i, reduction in enumerate(self.reductions):
            reduction.receive_updates(level, of_block(i, frame))

    def _take(self, kind: str, level: int) -> Frame:
        partner = self.partners[level]
        return self.group.take(kind, self.number, [partner])[partner]


def exchange_of(reductions: Sequence[Reduction], group: StageGroup | None, number: int) -> Exchange:
    """The exchange of a bucket by the way in which its reductions are divided. group: None where there is one
    worker."""
    if group is None:
        return NoExchange(reductions)
    first = reductions[0]
    if first.halving:
        return HalfExchange(reductions, group, number, first.halving)
    kind = SliceExchange if len(first.slices) > 1 else WholeExchange
    return kind(reductions, group, number)


def take_sums(reductions: Sequence[Reduction], group: StageGroup, number: int) -> None:
    """Take what all others have posted of a bucket, and add it up."""
    frames = group.take(GRADIENTS, number)
    with group.exchanges(ADDING_UP):
        for frame in frames.values():
            for i, (reduction, fields) in enumerate(zip(reductions, frame.fields["blocks"], strict=True)):
                reduction.receive(fields, of_block(i, frame))
        for reduction in reductions:
            reduction.add_up()
    group.receive_announcements(frames.values())


def gradient_fields(group: StageGroup, number: int, step: int, headers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The header of a bucket's frame of gradients. headers: of its blocks."""
    return {"step": step, "bucket": number, "blocks": headers, **group.announcements(step)}


def of_blocks(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all blocks, named by their numbers, too."""
    return {f"{i} {name}": value for i, each in enumerate(tensors) for name, value in each.items()}


def of_block(number: int, frame: Frame) -> dict[str, Tensor]:
    """The part of a bucket's frame that belongs to one block."""
    prefix = f"{number} "
    return {name.removeprefix(prefix): value for name, value in frame.tensors.items() if name.startswith(prefix)}
