"""A stage's batch where its lanes go side by side, for the norms' sake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ffdist.device import moved
from ffdist.errors import NetworkError, setting
from ffdist.objectives import Local
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.fusion import next_tensors
from ffdist.pipeline.lanes import parts
from ffdist.pipeline.lockstep import Lockstep
from ffdist.pipeline.message import TrainBatch
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.running import RunningStatistics
from ffdist.pipeline.stage_group import StageGroup
from ffdist.transport.base import Frame

NORMS = "Norms"
R = TypeVar("R")


@dataclass
class LaneBatch:
    """One lane's message on its way through the blocks."""

    message: TrainBatch
    y: Tensor
    companion: Tensor | None = None
    local: Local | None = None

    def take(self, local: Local, *, last: bool) -> None:
        """Take what a block has made of it. last: whether there is none after it."""
        now = self.message
        x, features = next_tensors(local, now.features)
        scores, scored = now.scores, now.scored
        if scores is not None and local.scores is not None:
            scores, scored = scores.to(self.y.device) + local.scores.detach(), scored + 1
        companion = None if last else self.companion
        self.message = replace(now, x=x, features=features, scores=scores, scored=scored, companion=companion)
        self.local = local


class SideBySideLanes:
    """The lanes of one worker at one stage, kept until they are all there."""

    def __init__(self, lanes: range, num_lanes: int, group: StageGroup | None, device: torch.device) -> None:
        """num_lanes: of a batch."""
        if len(lanes) > 1 and device.type != "cpu":
            raise NetworkError(
                "a GPU computes one lane at a time, and cannot have several wait for one another",
                where=setting("training.sync_norms", True),
                expected="a lane a worker",
                got=f"{len(lanes)} lanes on {device}",
                remedy=f"a plan with a lane a worker, e.g. {setting('plan.replicas', num_lanes)}",
            )
        self.lanes = lanes
        self.num_lanes = num_lanes
        self.group = group
        self.device = device
        self.lockstep = Lockstep(device)
        self.kept: list[TrainBatch] = []
        self.messages: list[TrainBatch] = []
        """The batch at work."""
        self.full: list[LaneBatch] = []
        """Those of these that have samples."""
        self.there: set[int] = set()
        """All lanes of the batch that have."""

    def keep(self, message: TrainBatch) -> list[TrainBatch] | None:
        """All of a batch's messages when this is the last one of them; else None."""
        self.kept.append(message)
        if message.lane != self.lanes[-1]:
            return None
        kept, self.kept = self.kept, []
        return kept

    def begin(self, messages: Sequence[TrainBatch]) -> None:
        """Begin a batch, of which some lane here has samples."""
        self.messages = list(messages)
        self.full = [
            LaneBatch(
                each,
                moved(each.y, self.device),
                None if each.companion is None else moved(each.companion, self.device),
            )
            for each in messages
            if len(each.y)
        ]
        samples = round(len(self.full[0].y) / self.full[0].message.share)
        self.there = {part.lane for part in parts(samples, self.num_lanes, 1) if part.samples}

    @property
    def passing(self) -> list[TrainBatch]:
        """The batch's messages as they are now."""
        by_lane = {each.message.lane: each.message for each in self.full}
        return [by_lane.get(each.lane, each) for each in self.messages]

    def forward(self, reduction: Reduction) -> None:
        """Take the batch's lanes through a block, in lockstep."""
        block = reduction.block

        def forward(each: LaneBatch) -> Local:
            now = each.message
            assert now.x is not None
            return block.forward(now.x, each.y, now.step, now.epoch, now.part, each.companion)

        reduction.begin(self.full[0].message.lane)
        found = self._run(block, forward, reduction.running)
        for each in self.full:
            each.take(found[each.message.lane][0], last=block.spec.is_last)

    def backward(self, reduction: Reduction) -> None:
        """The block learns from what it has made."""
        block = reduction.block

        def backward(each: LaneBatch) -> None:
            assert each.local is not None
            if block.backward(each.local, each.y, share=each.message.share):
                block.check_often(each.message.step)
            each.local = None

        found = self._run(block, backward)
        for message in self.messages:
            gradients = found[message.lane][1] if message.lane in found else [None] * len(block.learned)
            for parameter, gradient in zip(block.learned, gradients, strict=True):
                parameter.grad = gradient
            reduction.end_lane(message.lane)

    def _run(
        self, block: LearningBlock, act: Callable[[LaneBatch], R], running: RunningStatistics | None = None
    ) -> dict[int, tuple[R, list[Tensor | None]]]:
        """running: what each lane is to find as the batch found it. The leading lane's has what norms write for all."""
        work = {each.message.lane: partial(act, each) for each in self.full}
        part = {each.message.lane: each.message.part for each in self.full}
        on = {
            "resumed": lambda lane: running.put_back(part[lane]) if running else None,
            "left": lambda lane: running.take(part[lane]) if running else None,
        }
        return self.lockstep.run(block, work, self._exchange, min(self.there), **on)

    def _exchange(self, values: dict[int, Tensor]) -> dict[int, Tensor]:
        """Exchange the values of all lanes that have samples."""
        if self.group is None:
            return values
        others = [
            share.worker
            for share in self.group.shares
            if share.worker != self.group.worker and not self.there.isdisjoint(share.lanes)
        ]
        self.group.post(dict.fromkeys(others, Frame(NORMS, {}, {str(lane): value for lane, value in values.items()})))
        found = dict(values)
        for frame in self.group.take(NORMS, workers=others).values():
            found |= {int(lane): value.to(self.device) for lane, value in frame.tensors.items()}
        return found
