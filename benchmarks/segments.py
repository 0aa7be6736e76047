"""One training in one thread, in which every other short segment has a marker: what that costs, pair by pair.

Segments with and without follow one another within tenths of a second, in an order that is drawn for each pair; so a
machine that is slow for a while is slow for both. What is compared is the difference of each pair: its median, and the
bounds between which the true median lies with 95 % (by order statistics, which suppose nothing of the noise).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from math import comb
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

from ffdist.bench.harness.table import Value
from ffdist.events import Observer, RunStarted
from ffdist.pipeline.message import Message, TrainBatch
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.sink import Sink
from ffdist.pipeline.source import Source
from ffdist.pipeline.stage import Stage
from ffdist.report.log import run_log
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.start import make_job
from ffdist.settings import Settings
from ffdist.snapshot import SnapshotStore

T = TypeVar("T")
WARM = 2
"""First pairs, which warm up and are not counted."""


class Seconds(NamedTuple):
    """Seconds on the clock, and CPU seconds of this thread and of the whole process."""

    clock: float
    thread: float
    process: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(*(a - b for a, b in zip(self, other, strict=True)))


class SegmentPair(NamedTuple):
    """A segment with the marker, and one without."""

    marked: Seconds
    unmarked: Seconds

    @property
    def cost(self) -> Seconds:
        return self.marked - self.unmarked


def one_stage(**changed: Any) -> Settings:
    """cnnb by SFF in one thread, with these settings."""
    alone = Settings().changed(stages=1, launcher="threads", threads=1, device="cpu", validation=0.0)
    return alone.changed(model="cnnb", objective="sff", **changed)


class SegmentTraining:
    """One stage with all blocks, its source and its sink, batch by batch."""

    def __init__(self, settings: Settings, run: Path, observer: Observer) -> None:
        job = make_job(settings.changed(epochs=10**6), open_dataset(settings.dataset), run, 1)
        config = job.block_config(torch.device("cpu"), 10**6)
        self.store = SnapshotStore(run, job.names)
        blocks = [build_block(job.chain, spec, job.objective, config) for spec in job.block_specs()]
        self.stage = Stage(0, blocks, self.store.save)
        self.sink = Sink(
            commit=self.store.commit,
            publish=lambda *_: None,
            observer=run_log(run, observer),
        )
        classes = job.chain.num_classes
        loaders = job.loaders()
        observer(RunStarted(len(loaders.train), 10**6, 0, 1))
        self.batches = learned(Source(loaders, job.objective, job.settings.training, num_classes=classes))
        self.bytes_of_state = sum(
            tensor.numel() * tensor.element_size() for block in blocks for tensor in block.state()[0].values()
        )

    def segment(self, batches: int, marker: Message | None, after: Callable[[Stage], object]) -> Seconds:
        """Seconds of a segment of `batches` batches, with a marker before them or None."""
        began = now()
        if marker:
            self.stage.handle(marker, self.sink)
            after(self.stage)
        for _ in range(batches):
            self.stage.handle(next(self.batches), self.sink)
        self.stage.send_written(self.sink, waiting=True)
        return now() - began

    def pairs(
        self,
        count: int,
        batches: int,
        marker: Callable[[int], Message],
        after: Callable[[Stage], object] = lambda stage: None,
    ) -> list[SegmentPair]:
        """Measure pairs of segments. marker: makes one for a step. after: called when it has passed the stage."""

        def segment(marked: bool) -> Seconds:
            return self.segment(batches, marker(self.stage.step) if marked else None, after)

        return [SegmentPair(*pair) for pair in measured_in_pairs(segment, count)]


def measured_in_pairs(measure: Callable[[bool], T], count: int) -> list[tuple[T, T]]:
    """Measure with and without, pair by pair, in an order that is drawn for each; two more pairs before them warm up,
    and are not counted."""
    draws, found = random.Random(0), list[tuple[T, T]]()
    for _ in range(count + WARM):
        order = draws.choice(((True, False), (False, True)))
        pair = {on: measure(on) for on in order}
        found.append((pair[True], pair[False]))
    return found[WARM:]


def learned(source: Source) -> Iterator[TrainBatch]:
    """The training batches of a source, without its markers."""
    return (message for message in source if isinstance(message, TrainBatch))


def now() -> Seconds:
    """The clocks' readings, to be subtracted."""
    return Seconds(time.perf_counter(), time.thread_time(), time.process_time())


def estimate(values: Iterable[float]) -> Value:
    """The median of the values, with the bounds of its 95 % interval in place of minimum and maximum."""
    ordered, tail, low = sorted(values), 0.0, 0
    while (tail := tail + comb(len(ordered), low) / 2 ** len(ordered)) < 0.025:
        low += 1
    low = max(0, low - 1)
    return Value(median(ordered), len(ordered), (ordered[low], ordered[-1 - low]))
