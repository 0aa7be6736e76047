"""A stage: some consecutive blocks, and THE loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch

from ffdist.device import moved, queues, recorded
from ffdist.errors import FfdistError, StageError, described
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.fusion import passed_on
from ffdist.pipeline.memory import Memory
from ffdist.pipeline.message import EndOfEpoch, EndOfSplit, EvalBatch, Message, Snapshot, Stop, TrainBatch


class Outbox(Protocol):
    """Where a stage's messages go: an edge to the next stage, or the sink."""

    @property
    def waited(self) -> float:
        """Seconds spent so far waiting for room."""
        ...

    def send(self, message: Message) -> None: ...


SaveBlocks = Callable[[Sequence[LearningBlock], Snapshot], list[dict[str, Any]]]
"""Writes blocks durably for a snapshot; returns what the manifest says of each file."""


class Stage:
    """Consecutive blocks of the chain, learning batch by batch; it never waits for a later one but for room."""

    def __init__(self, index: int, blocks: Sequence[LearningBlock], save: SaveBlocks) -> None:
        self.index, self.blocks, self.write = index, list(blocks), save
        self.device = blocks[0].config.device
        self.step = 0
        self.on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None
        """Told at each end of an epoch what this stage reports of itself."""
        self.take_queued: Callable[[], float] = lambda: 0.0
        """Messages that lay in the queue before this stage, on average over the epoch; the first has none."""
        self.clock, self.lead = Clock(), Lead(self.device)
        self.memory = Memory(self.device)

    def __str__(self) -> str:
        return f"stage {self.index} ({', '.join(block.site.name for block in self.blocks)})"

    def run(self, inbox: Iterable[Message], outbox: Outbox) -> None:
        """Work until `Stop`. The stage's whole life."""
        for message in self.clock.timed(inbox):
            self.handle(message, outbox)
            self.lead.keep()
            if isinstance(message, Stop):
                return
            del message  # the memory it lies in goes back before the next is asked for

    def handle(self, message: Message, outbox: Outbox) -> None:
        match message:
            case TrainBatch():
                self.train(message, outbox)
            case EvalBatch():
                outbox.send(self.evaluate(message))
            case EndOfSplit():
                outbox.send(self.end_split(message))
            case EndOfEpoch():
                outbox.send(self.end_epoch(message, outbox))
            case Snapshot():
                outbox.send(self.save(message))
            case Stop():
                outbox.send(message)

    def train(self, batch: TrainBatch, outbox: Outbox) -> None:
        """Each block learns from what the one before computed before its update; the last one's output is on its way
        to the next stage while that block still learns."""
        x, features, y, self.step = batch.x, batch.features, moved(batch.y, self.device), batch.step
        scores, scored = batch.scores, batch.scored
        for block in self.blocks:
            assert x is not None
            with self.at(block, f"batch {batch.step}"):
                local = block.forward(x, y, batch.step, batch.epoch, batch.part)
            x, features = passed_on(local, features)
            if scores is not None and local.scores is not None:
                scores, scored = scores.to(self.device) + local.scores.detach(), scored + 1
            if block is self.blocks[-1]:
                outbox.send(replace(batch, x=x, features=features, scores=scores, scored=scored))
            with self.at(block, f"batch {batch.step}"):
                block.update(local, y, batch.step, share=batch.share, complete=batch.complete)

    @contextmanager
    def at(self, block: LearningBlock, when: str) -> Iterator[None]:
        """Raises StageError for what the network's or the rule's own code raises within, naming the block."""
        try:
            yield
        except (FfdistError, MemoryError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            where = f"stage {self.index}, block {block.site.name}, {when}"
            raise StageError("a block failed", where=where, got=described(error)) from error

    def evaluate(self, batch: EvalBatch) -> EvalBatch:
        """Add the blocks' scores to those of the blocks before."""
        x, features, y = batch.x, batch.features, moved(batch.y, self.device)
        scores = [] if batch.scores is None else [batch.scores.to(self.device)]
        scored = list(batch.scored)
        for block in self.blocks:
            assert x is not None
            with self.at(block, f"{batch.split} split"):
                local = block.evaluate(x, y)
            x, features = passed_on(local, features)
            if local.scores is not None:
                scores.append(local.scores[None])
                scored.append(block.site.name)
        return EvalBatch(batch.split, x, batch.y, features, torch.cat(scores) if scores else None, scored)

    def end_split(self, marker: EndOfSplit) -> EndOfSplit:
        marker.blocks += [block.take_metrics(marker.split) for block in self.blocks]
        return marker

    def end_epoch(self, marker: EndOfEpoch, outbox: Outbox) -> EndOfEpoch:
        """Step the schedules; report where this stage's time went, and its memory."""
        for block in self.blocks:
            block.end_epoch()
        names = [block.site.name for block in self.blocks]
        times = self.clock.lap(credit=outbox.waited)
        metrics = {"stage": self.index, "blocks": names, **times, "queued": self.take_queued(),
                   **self.memory.peaks()}  # fmt: skip
        self.on_epoch(marker.epoch, metrics)
        marker.stages.append(metrics)
        return marker

    def save(self, marker: Snapshot) -> Snapshot:
        """The files are on disk before the marker goes on: what reaches the end is complete."""
        for block in self.blocks:
            block.check_finite(self.step)
        marker.files += self.write(self.blocks, marker)
        return marker


class Clock:
    """Where a stage's time goes between two ends of an epoch: waiting for data, waiting for credit, the rest busy."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.data = self.credit = 0.0

    def timed(self, inbox: Iterable[Message]) -> Iterator[Message]:
        """The same messages; the time each was waited for is counted."""
        asked = time.perf_counter()
        for message in inbox:
            self.data += time.perf_counter() - asked
            yield message
            del message
            asked = time.perf_counter()

    def lap(self, credit: float) -> dict[str, float]:
        """Seconds since the last lap: in all, busy, without data, without credit (`credit`: waited in all, so far)."""
        now = time.perf_counter()
        seconds, waited = now - self.started, credit - self.credit
        lap = {"seconds": seconds, "busy": seconds - self.data - waited, "no_data": self.data, "no_credit": waited}
        self.started, self.data, self.credit = now, 0.0, credit
        return lap


class Lead:
    """Keeps the host one message ahead of its GPU: else it would run on until something made it wait, and that would be
    counted as waiting for data or for credit."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.under_way: deque[torch.Event] = deque()

    def keep(self) -> None:
        """Behind each message: wait until the GPU has done what came before it. A CPU has."""
        if not queues(self.device):
            return
        self.under_way.append(recorded(self.device, blocking=True))
        if len(self.under_way) > 1:
            self.under_way.popleft().synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """What torch raises on a CPU is known by its words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
