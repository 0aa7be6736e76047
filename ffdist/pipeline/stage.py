"""A stage: some consecutive blocks, and THE loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ffdist.device import moved
from ffdist.errors import FfdistError, StageError, described
from ffdist.objectives import Local
from ffdist.pipeline.background_snapshot import BackgroundSnapshot, Files
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.bucket import Bucket, in_buckets
from ffdist.pipeline.by_batch import ByBatch
from ffdist.pipeline.by_lane import ByLane
from ffdist.pipeline.clock import HostClock, HostLead
from ffdist.pipeline.fusion import next_tensors
from ffdist.pipeline.memory import Memory
from ffdist.pipeline.message import (
    EndOfEpoch,
    EndOfSplit,
    EvalBatch,
    Message,
    Pulse,
    Restore,
    Snapshot,
    Stop,
    TrainBatch,
    Written,
)
from ffdist.pipeline.profile import TorchProfile
from ffdist.pipeline.reduce import reductions_of
from ffdist.pipeline.sharing import Sharing
from ffdist.pipeline.stage_group import StageGroup
from ffdist.pipeline.synced import SideBySideLanes
from ffdist.pipeline.trace import Trace
from ffdist.pipeline.turn import Outbox, Turn

SaveBlocks = Callable[[Sequence[LearningBlock], Snapshot], Files]
"""Begins to write blocks durably for a snapshot, as they are now; returns their files."""


class Stage:
    """Consecutive blocks of the chain, learning batch by batch; it never waits for a later one but for room, and for
    workers that share its blocks but for their gradients."""

    def __init__(
        self,
        index: int,
        blocks: Sequence[LearningBlock],
        save: SaveBlocks,
        *,
        lanes: range | None = None,
        group: StageGroup | None = None,
        turn: Turn | None = None,
    ) -> None:
        """lanes: those of each batch that are computed here; None: all. group: the stage's workers, where there are
        several. turn: where this worker serves in other stages, too."""
        self.index = index
        self.blocks = list(blocks)
        self.write = save
        self.device = blocks[0].config.device
        self.finite_checks = [check for block in blocks if (check := block.check_batches())]
        """The checks of those blocks that have something to learn."""
        self.group = group
        self.turn = turn
        training = blocks[0].config.settings.training
        num_lanes = training.lanes or 1
        self.lanes = range(num_lanes) if lanes is None else lanes
        self.sharing: Sharing = (
            ByBatch(group, blocks) if group and group.by_batch else ByLane(group, blocks, self.lanes)
        )
        others = self.sharing.reduces_with
        self.reductions = reductions_of(self.blocks, self.lanes, num_lanes, others)
        """The reduction of each block, where a batch has several lanes."""
        self.buckets = in_buckets(self.reductions, others)
        self.side_by_side = (
            SideBySideLanes(self.lanes, num_lanes, others, self.device)
            if training.sync_norms and num_lanes > 1
            else None
        )
        self.bucket_of = [bucket for bucket in self.buckets for _ in bucket.reductions]
        """By the blocks' numbers here."""
        if group and turn:
            group.lent, group.turn = turn.lent, turn
        self.step = 0
        self.worker = group.worker if group else index
        self.on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None
        """Called at each end of an epoch with what this stage reports of itself."""
        self.restore: Callable[[Sequence[LearningBlock], Restore], None] = lambda blocks, marker: None
        """Loads blocks as a snapshot has them."""
        self.take_queued: Callable[[str], float] = lambda user: 0.0
        """Messages that lay in the queue before this stage, on average since the last marker of a kind; the first has
        none."""
        self.clock = HostClock()
        self.lead = HostLead(self.device)
        self.background = BackgroundSnapshot()
        """This stage's files of a snapshot, while they are written in the background."""
        self.trace = Trace()
        self.profile = TorchProfile()
        self.memory = Memory(self.device)

    def __str__(self) -> str:
        names = [block.spec.name for block in self.blocks]
        return f"stage {self.index} ({', '.join([*names, str(self.sharing)] if self.group else names)})"

    def run(self, inbox: Iterable[Message], outbox: Outbox) -> None:
        """Handle messages until `Stop`. Raises StageError for a block that fails, naming it, and what edges raise."""
        outbox = self.turn.lent_while_sending(outbox) if self.turn else outbox
        outbox = self.trace.sending(outbox)
        if self.group:
            self.group.trace = self.trace
        for reduction in self.reductions:
            reduction.begin_run()
        try:
            for message in self.clock.timed(self.trace.receiving(inbox) if self.trace.window else inbox):
                self.trace.meet(message, last=isinstance(message, Stop))
                with self.turn or nullcontext():
                    self.profile.meet(message)
                    self.handle(message, outbox)
                    self.lead.limit()
                if isinstance(message, Stop):
                    return
                del message  # the memory it lies in goes back before the next is asked for
        finally:
            self.profile.end()
            self.background.end()

    def handle(self, message: Message, outbox: Outbox) -> None:
        """Handle one message of the stream, and send on what comes of it."""
        self.send_written(outbox)
        self.clock.samples += len(message.y) if isinstance(message, TrainBatch) else 0
        match message:
            case TrainBatch() if self.side_by_side:
                if batches := self.side_by_side.keep(message):
                    self.train_side_by_side(batches, self.side_by_side, outbox)
            case TrainBatch() if self.reductions:
                self.train_lanes(message, outbox)
            case TrainBatch():
                self.train(message, outbox)
            case Pulse():
                message.stages.append(self.usage("pulse", outbox) | {"blocks": [b.metrics() for b in self.blocks]})
                outbox.send(message)
            case Written():
                outbox.send(message)
            case EvalBatch():
                self.settle()
                outbox.send(self.evaluate(message))
            case _:
                self.settle()
                self.sharing.settle(self.step)
                self.send_written(outbox, waiting=True)
                self.handle_marker(message, outbox)

    def handle_marker(self, message: Message, outbox: Outbox) -> None:
        """Handle a marker that needs all blocks updated, and the snapshot before on disk."""
        match message:
            case EndOfSplit():
                outbox.send(self.end_split(message))
            case EndOfEpoch():
                outbox.send(self.end_epoch(message, outbox))
            case Snapshot():
                with self.trace.span("snapshot", "snapshot"):
                    marker = self.save(message)
                outbox.send(marker)
            case Restore():
                self.restore(self.blocks, message)
                outbox.send(message)
            case _:
                outbox.send(message)

    def send_written(self, outbox: Outbox, *, waiting: bool = False) -> None:
        """Send word of a snapshot's files that are on disk by now. waiting: wait for them."""
        if not self.background.files:
            return
        if waiting:
            with self.trace.span("wait for the disk", "snapshot"), self.turn.lent() if self.turn else nullcontext():
                self.background.wait()
        if written := self.background.written():
            outbox.send(written)

    def train(self, batch: TrainBatch, outbox: Outbox) -> None:
        """Each block learns from what the one before computed before its update; the last one's output is on its way
        to the next stage while that block still learns."""
        y, self.step = moved(batch.y, self.device), batch.step
        for number, (block, local) in enumerate(self.computed(batch, y, outbox)):
            with self.at(block, "learn", f"batch {batch.step}"):
                block.update(local, y, batch.step, share=batch.share, complete=batch.complete)
            if batch.complete:
                self.sharing.give(number, batch.step, batch.order)

    def train_lanes(self, batch: TrainBatch, outbox: Outbox) -> None:
        """Do as `train` where a batch has several lanes: a block takes its step when all have been computed, here or
        elsewhere, and before it is needed again."""
        y, self.step = moved(batch.y, self.device), batch.step
        if not len(y):  # fewer samples than lanes
            self.settle()
            outbox.send(batch)
            for number in range(len(self.blocks)):
                self.begin_batch(number, batch)
                self.end_part(number, batch)
            self.advance(batch, self.buckets)
            return
        for number, (block, local) in enumerate(self.computed(batch, y, outbox)):
            if block is self.blocks[-1]:  # all that is computed here of the batch is on its way
                self.advance(batch, self.buckets[:-1])
            with self.at(block, "learn", f"batch {batch.step}"):
                if block.backward(local, y, share=batch.share):
                    block.check_often(batch.step)
            self.end_part(number, batch)
        self.advance(batch, self.buckets)

    def train_side_by_side(self, batches: Sequence[TrainBatch], side_by_side: SideBySideLanes, outbox: Outbox) -> None:
        """Train on all lanes at once, as norms want the statistics of them all."""
        last = batches[-1]
        self.step = last.step
        if not any(len(batch.y) for batch in batches):
            for batch in batches:
                self.train_lanes(batch, outbox)
            return
        side_by_side.begin(batches)
        for number, reduction in enumerate(self.reductions):
            self.finish(self.bucket_of[number])
            self.begin_batch(number, batches[0])
            with self.at(reduction.block, "forward", f"batch {last.step}"):
                side_by_side.forward(reduction)
            if reduction.block is self.blocks[-1]:
                for message in side_by_side.passing:
                    outbox.send(message)
                self.advance(last, self.buckets[:-1])
            with self.at(reduction.block, "learn", f"batch {last.step}"):
                side_by_side.backward(reduction)
            self.post(number, last)
        self.advance(last, self.buckets)

    def advance(self, batch: TrainBatch, buckets: Sequence[Bucket]) -> None:
        """Hand on slices of updates, where workers do so and the batch is complete here."""
        for bucket in buckets if self.ends_batch(batch) else ():
            if bucket.sliced:
                with self.at(bucket.reductions[0].block, "update", f"batch {batch.step}, update"):
                    bucket.advance()

    def ends_batch(self, batch: TrainBatch) -> bool:
        """True if it is the last microbatch of the last lane that is computed here."""
        return batch.last and batch.lane == self.lanes[-1]

    def end_part(self, number: int, batch: TrainBatch) -> None:
        """Called after a block's microbatch: what it adds to its lane, and the lane to the batch."""
        reduction = self.reductions[number]
        if len(batch.y):
            reduction.end_part(batch.part)
        if not batch.last:
            return
        reduction.end_lane(batch.lane)
        if self.ends_batch(batch):
            self.post(number, batch)

    def post(self, number: int, batch: TrainBatch) -> None:
        """Called after a block's batch: send its gradients to the others, with those of the blocks that travel with
        it."""
        bucket = self.bucket_of[number]
        if self.reductions[number] is bucket.reductions[-1]:
            bucket.post(batch.step)
            if bucket.group is None:  # nobody is waited for: the block takes its step now
                bucket.finish()
            self.sharing.give(number, batch.step, batch.order)

    def begin_batch(self, number: int, batch: TrainBatch) -> None:
        """Called before a block computes anything of a batch: take what others have learned in the one before."""
        if not batch.part:
            self.sharing.take(number, batch.order)

    def computed(self, batch: TrainBatch, y: Tensor, outbox: Outbox) -> Iterator[tuple[LearningBlock, Local]]:
        """Each block with what it makes of the one before; it learns while the iterator stands, and then the next
        begins."""
        x, features = batch.x, batch.features
        scores, scored = batch.scores, batch.scored
        companion = None if batch.companion is None else moved(batch.companion, self.device)
        for number, block in enumerate(self.blocks):
            assert x is not None
            self.begin_batch(number, batch)
            if self.reductions:
                self.finish(self.bucket_of[number])
                self.reductions[number].begin(batch.lane)
            with self.at(block, "forward", f"batch {batch.step}"):
                local = block.forward(x, y, batch.step, batch.epoch, batch.part, companion)
            x, features = next_tensors(local, features)
            companion = None if block.spec.is_last else companion
            if scores is not None and local.scores is not None:
                scores, scored = scores.to(self.device) + local.scores.detach(), scored + 1
            if block is self.blocks[-1]:
                outbox.send(replace(batch, x=x, features=features, scores=scores, scored=scored, companion=companion))
            yield block, local

    def finish(self, bucket: Bucket) -> None:
        """Update the blocks by what was posted of them."""
        if bucket.pending:
            with self.at(bucket.reductions[0].block, "update", f"batch {bucket.step}, update"):
                bucket.finish()

    def settle(self) -> None:
        """Update every block by the last batch: what follows, a marker or an evaluation, needs them so."""
        for bucket in self.buckets:
            self.finish(bucket)

    @contextmanager
    def at(self, block: LearningBlock, what: str, when: str) -> Iterator[None]:
        """Raises StageError for what the network's or the rule's own code raises within, naming the block. what: is
        done there."""
        try:
            with self.trace.span(f"{block.spec.name} {what}", "compute"):
                yield
        except (FfdistError, MemoryError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            where = f"stage {self.index}, block {block.spec.name}, {when}"
            raise StageError("a block failed", where=where, got=described(error)) from error

    def evaluate(self, batch: EvalBatch) -> EvalBatch:
        """Add the blocks' scores to those of the blocks before."""
        if not len(batch.y):  # fewer samples than lanes
            return batch
        x, features, y = batch.x, batch.features, moved(batch.y, self.device)
        scores = [] if batch.scores is None else [batch.scores.to(self.device)]
        scored = list(batch.scored)
        for block in self.blocks:
            assert x is not None
            block.lane = batch.lane
            with self.at(block, "evaluate", f"{batch.split} split"):
                local = block.evaluate(x, y, batch.number)
            x, features = next_tensors(local, features)
            if local.scores is not None:
                scores.append(local.scores[None])
                scored.append(block.spec.name)
        self.sharing.count(batch.order)
        return replace(batch, x=x, features=features, scores=torch.cat(scores) if scores else None, scored=scored)

    def end_split(self, marker: EndOfSplit) -> EndOfSplit:
        """Add the blocks' metrics over the split, of all lanes; they begin anew."""
        self.sharing.share_totals(self.step)
        marker.blocks += [block.take_metrics(marker.split) for block in self.blocks]
        return marker

    def end_epoch(self, marker: EndOfEpoch, outbox: Outbox) -> EndOfEpoch:
        """Step the schedules; report where this stage's time went, and its memory."""
        for block in self.blocks:
            block.end_epoch()
        metrics = self.usage("epoch", outbox)
        self.on_epoch(marker.epoch, metrics)
        marker.stages.append(metrics)
        return marker

    def usage(self, user: str, outbox: Outbox) -> dict[str, Any]:
        """A report of where this stage's time went since the last such marker, and of its memory."""
        group = self.group
        exchanges = (group.exchanging, group.waited, group.overlapped, group.missed) if group else ()
        return {
            "stage": self.index,
            "worker": self.worker,
            "device": str(self.device),
            "blocks": [block.spec.name for block in self.blocks],
            **self.clock.usage(outbox.waited, *exchanges, user=user),
            "queued": self.take_queued(user),
            **self.memory.peaks(),
        }

    def save(self, marker: Snapshot) -> Snapshot:
        """Hold what is to be written as it is now; until it is on disk, the end awaits word of it."""
        if marker.cuts_evaluation:
            self.sharing.give_up_evaluation()
        for block in self.blocks:
            block.check_finite(self.step)
            block.check_weights(self.step)
        self.sharing.share_totals(self.step)
        for blocks in self.sharing.blocks_to_save(self.reductions, self.step):
            self.background.begin(marker, self.write(blocks, marker) if blocks else {})
        return marker


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out; what torch raises on a CPU is known by its words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
