"""One batch of a run again, by itself: what each block made of it, and which samples bring it to NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ffdist.errors import ConfigError, SnapshotError, setting
from ffdist.notes import note
from ffdist.objectives import BlockSpec, Local
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.finite import FiniteCheck, NonfiniteValue, is_finite
from ffdist.pipeline.initial import make_from_data
from ffdist.pipeline.message import Message, TrainBatch
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.score_table import KNOWN, RECENT, ScoreSender, ScoreTable
from ffdist.pipeline.source import Position, Source
from ffdist.pipeline.stage import Stage
from ffdist.runtime.data_facts import check_same_data, read_facts
from ffdist.runtime.job import Job
from ffdist.runtime.nonfinite import kept_batches, numbers_of
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.own_code import GIVEN, check_code
from ffdist.runtime.run import check_named, no_data_to_learn_error, read_settings, saved_plan
from ffdist.runtime.start import make_job
from ffdist.runtime.threads import computing_threads_kept
from ffdist.runtime.worker import set_threads, stage_device
from ffdist.runtime.world import World
from ffdist.snapshot import Manifest, SnapshotStore, committed, pulled, read_manifest
from ffdist.snapshot.newest import whole
from ffdist.transport import Edge, open_local
from ffdist.trust import trusting

MAX_SAMPLES = 1000
"""Named one by one, at most."""


@dataclass
class BlockSeen:
    """The results of one block on the batch."""

    block: str
    loss: float | None = None
    """The loss of the whole batch; None where the block rests."""
    largest_output: float = 0.0
    """The greatest absolute value of what it passes on; NaN or infinite where some is."""
    bad_outputs: int = 0
    """Numbers of these that are not finite."""
    largest_gradient: float = 0.0
    """The greatest absolute value of its gradients: the batch's; where that has lanes, each one's."""
    bad_gradients: int = 0
    """Numbers of these that are not finite; in several lanes, counted once."""
    samples: list[int] = field(default_factory=list)
    """Whose output is not finite, by their places in the training split, from 0."""


@dataclass
class Replay:
    """One batch of a run, again."""

    batch: int
    """Its number in the run, from 1."""
    epoch: int
    """From 1."""
    begun: int
    """The batch after which the snapshot is that it was begun from; what lies between was learned again."""
    samples: list[int]
    """All of the batch's, by their places in the training split, from 0, in their order."""
    bad_inputs: list[int]
    """Those that are not finite before the first block."""
    blocks: list[BlockSeen]

    @property
    def first_bad(self) -> BlockSeen | None:
        """The first block that the batch brings to NaN or infinity; None where all is finite."""
        return next((each for each in self.blocks if is_bad(each)), None)

    def as_json(self) -> dict[str, Any]:
        """All of it; JSON has no NaN or infinity, which are the texts "nan", "inf" and "-inf"."""
        first = self.first_bad
        return with_texts(asdict(self) | {"first_bad": first and first.block})


def is_bad(seen: BlockSeen) -> bool:
    return bool(seen.bad_outputs or seen.bad_gradients or (seen.loss is not None and not is_number(seen.loss)))


def with_texts(value: Any) -> Any:
    """The value, its numbers that are not finite as texts."""
    if isinstance(value, dict):
        return {name: with_texts(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_texts(each) for each in value]
    return str(value) if isinstance(value, float) and not is_number(value) else value


def is_number(value: float) -> bool:
    """True if it is finite."""
    return value - value == 0  # inf - inf is NaN, too


class Recorder(FiniteCheck):
    """Writes down what a block makes of a batch, and raises nothing."""

    def __init__(self, spec: BlockSpec, device: torch.device) -> None:
        super().__init__(spec, "skip", device)
        self.record = BlockSeen(spec.name)
        self.share = 1.0
        self.numbers = list[int]()
        """The numbers of the part that is at work: its part of the batch, and its samples."""
        self.bad_in_some_lane: Tensor | bool = False
        """Which numbers of the gradients are not finite in one of the lanes so far at least."""

    def seen(self, local: Local) -> Local:
        record = self.record
        if local.loss is not None:
            record.loss = (record.loss or 0.0) + float(local.loss.detach()) * self.share
        if local.next_input is not None and local.next_input.is_floating_point():
            bad = ~torch.isfinite(local.next_input)
            record.largest_output = greatest(record.largest_output, local.next_input)
            record.bad_outputs += int(bad.sum())
            rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.any() else []
            record.samples += [self.numbers[row % len(self.numbers)] for row in rows]
        return local

    def look_at(self, gradients: Any) -> None:
        for gradient in gradients:
            self.record.largest_gradient = greatest(self.record.largest_gradient, gradient)
            self.record.bad_gradients += int((~torch.isfinite(gradient)).sum())

    def look_at_lane(self, flat: Tensor, num_lanes: int) -> None:
        self.record.largest_gradient = greatest(self.record.largest_gradient, flat)
        self.bad_in_some_lane = ~torch.isfinite(flat) | self.bad_in_some_lane
        self.record.bad_gradients = int(self.bad_in_some_lane.sum())

    def end(self, trouble: NonfiniteValue | None) -> None:
        self.before = []


def greatest(before: float, values: Tensor) -> float:
    """The greatest absolute value so far; NaN, once there was one."""
    now = float(values.detach().abs().max()) if values.numel() else 0.0
    return before if before != before or before > now else now


class LastOutbox:
    """The outbox after the last block; scores that the source wants to hear of go back to it."""

    def __init__(self, score_sender: ScoreSender | None) -> None:
        self.score_sender = score_sender
        self.waited = 0.0

    def send(self, message: Message) -> None:
        if self.score_sender and isinstance(message, TrainBatch):
            self.score_sender.send(message)


def replay(run: str | Path, batch: int | None = None, *, trust: bool = False) -> Replay:
    """Batch `batch` of a run, from 1, as it was learned, by one worker in this process: from the last whole snapshot
    before it, and the batches between. Nothing is written.

    batch: None: the last that the run has kept, as one that brought a block to NaN or infinity.
    trust: as `ffdist.load` has it.

    Raises SnapshotError for what is no run, or where none of its batches is kept; ConfigError for a batch that the run
    does not have, DataError for other data than it has learned; DivergedError where a batch before it stops the run.
    """
    folder = pulled(run)
    with trusting(trust):
        settings, facts = read_settings(folder), read_facts(folder)
        saved_plan(folder)  # refused where it is not whole: it may say how many lanes a batch has
    batch = last_kept(folder) if batch is None else batch
    check_named(settings, folder)
    if settings.dataset.data == GIVEN:
        raise no_data_to_learn_error(folder)
    check_code(folder, settings, strict=False)
    images = open_dataset(settings.dataset)
    check_same_data(facts, images, settings.dataset.data)
    with computing_threads_kept():
        set_threads(settings.compute.threads, World())
        manifest = before(folder, batch)
        job = make_job(settings, images, folder, resume=manifest is not None)
        return Replayer(job, manifest, stage_device(settings.compute.device, World())).play(batch)


def last_kept(run: Path) -> int:
    """The last batch that brought a block to NaN or infinity. Raises SnapshotError where the run has kept none."""
    found = kept_batches(run)
    if not found:
        raise SnapshotError(
            "the run has kept no batch that brought a block to NaN or infinity",
            where=run,
            remedy=f"name one by its number: {setting('batch', 1)}",
        )
    return found[-1]["batch"]


def before(run: Path, batch: int) -> Manifest | None:
    """The last whole snapshot before a batch; None where there is none, and it is learned from the beginning."""
    for folder in reversed(committed(run)):
        try:
            manifest = read_manifest(folder)
            if manifest.step < batch:
                return whole(manifest)
        except SnapshotError as error:
            note(f"a snapshot cannot be used, the one before is taken: {error.where}: {error.what}")
    return None


class Replayer:
    """A run's stream, up to a batch."""

    def __init__(self, job: Job, manifest: Manifest | None, device: torch.device) -> None:
        self.job = job
        self.manifest = manifest
        self.loaders = job.loaders()
        total = max(1, len(self.loaders.train) * job.settings.training.epochs)
        config = job.block_config(device, total)
        blocks = [build_block(job.chain, spec, job.objective, config) for spec in job.block_specs()]
        self.stage = Stage(0, blocks, lambda blocks, marker: {})
        self.store = SnapshotStore(job.run, job.names)
        if manifest:
            self.store.load(blocks, manifest)
        else:
            make_from_data(blocks[0].module, self.loaders.train)
        for reduction in self.stage.reductions:
            reduction.begin_run()

    def play(self, batch: int) -> Replay:
        """Learn all batches up to this one, and record it. Raises ConfigError where the run has no such batch."""
        steps, epochs = len(self.loaders.train), self.job.settings.training.epochs
        if isinstance(batch, bool) or not 1 <= batch <= steps * epochs:
            raise ConfigError(
                "the run has no such batch", where=setting("batch"), expected=f"1 .. {steps * epochs}", got=batch
            )
        numbers = numbers_of(self.loaders.train, batch).tolist()
        begun = self.manifest.step if self.manifest else 0
        found = Replay(batch, (batch - 1) // steps + 1, begun, numbers, [], [])
        at, recorders = 0, list[Recorder]()
        with self.messages() as (messages, outbox):
            for message in messages:
                if isinstance(message, TrainBatch) and message.step == batch:
                    recorders = recorders or [self.recorded(block) for block in self.stage.blocks]
                    own = numbers[at : at + len(message.y)]
                    at += len(message.y)
                    for recorder in recorders:
                        recorder.share, recorder.numbers = message.share, own
                    found.bad_inputs += bad_rows(message.x, own)
                self.stage.handle(message, outbox)
                if at == len(numbers) and recorders:
                    break
        found.blocks = [recorder.record for recorder in recorders]
        for seen in found.blocks:
            seen.samples = list(dict.fromkeys(seen.samples))[:MAX_SAMPLES]
        return found

    def recorded(self, block: LearningBlock) -> Recorder:
        block.finite_check = Recorder(block.spec, block.config.device)
        return block.finite_check

    @contextmanager
    def messages(self) -> Iterator[tuple[Source, LastOutbox]]:
        """The run's stream from the snapshot on, and what its end is."""
        job, manifest, lag = self.job, self.manifest, self.job.objective.score_lag
        score_table = score_sender = None
        if lag:
            sender, receiver = open_local(Edge("back", lag + 2, job.timeout))
            recent = self.store.load_extra_file(manifest, RECENT)[0].get("scores", ()) if manifest else ()
            keep = self.store.save_extra_file
            score_table = ScoreTable(self.loaders.train, job.chain.num_classes, lag, receiver, keep, recent)
            score_sender = ScoreSender([sender], lag, keep, recent)
            if manifest:
                score_table.load_state(*self.store.load_extra_file(manifest, KNOWN))
        start = Position(manifest.step, manifest.epoch, manifest.batch) if manifest else Position()
        source = Source(
            self.loaders,
            job.objective,
            job.settings.training,
            num_classes=job.chain.num_classes,
            start=start,
            score_table=score_table,
            leads=False,
        )
        yield source, LastOutbox(score_sender)


def bad_rows(x: Tensor | None, numbers: list[int]) -> list[int]:
    """The samples of a part of a batch that are not finite before the first block."""
    if x is None or is_finite(x):
        return []
    rows = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
    return list(dict.fromkeys(numbers[row % len(numbers)] for row in rows))
