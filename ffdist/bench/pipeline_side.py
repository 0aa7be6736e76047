"""ffdist's own side: the stages of `ffdist train`, whose epochs are the rounds."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor

from ffdist.bench.team import Seat
from ffdist.bench.window import Lap, Window, endless
from ffdist.data import Loader
from ffdist.pipeline.source import Loaders, Source
from ffdist.runtime.edges import ProcessEdges
from ffdist.runtime.processes import MakeJob
from ffdist.runtime.rank import Rank, stage_device

MAX_ROUNDS = 400
"""Epochs of the run; those nobody asks for pass empty."""


@dataclass(frozen=True)
class PipelineLife:
    """One stage's life: `Rank`, as every launcher runs it. Only the loader is paced, and the sink's reports are timed.

    The first answer says that the stages are ready; each order is a `Window`, answered with a `Lap` by the last rank.
    """

    make_job: MakeJob

    def __call__(self, seat: Seat) -> None:
        job = self.make_job()
        job = replace(job, config=replace(job.config, report_every=0.0, schedule=replace(job.config.schedule, epochs=MAX_ROUNDS)))
        config, world, store = job.config, seat.world, seat.store()
        edges = ProcessEdges(world, store, stage_device(config.device, world), transport=config.transport,
                             depth=config.queue, timeout=config.timeout)  # fmt: skip
        pace = Pace(seat)
        stopwatch = Stopwatch(pace, config.batch_size)
        Rank(job, world, store, edges, stopwatch, pace.hold).run()


class Pace:
    """Lets an epoch begin when an order comes, with as many batches as it says."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.window: Window | None = None
        self.ended = False

    def hold(self, source: Source) -> None:
        train = source.loaders.train
        source.loaders = Loaders(PacedLoader(self, train))  # pyright: ignore[reportArgumentType]

    def next(self) -> Window | None:
        self.window = None if self.ended else self.seat.order()
        self.ended = self.window is None
        return self.window


class PacedLoader:
    """A training loader whose every epoch is a round."""

    def __init__(self, pace: Pace, loader: Loader) -> None:
        self.pace, self.loader, self.batches = pace, loader, endless(loader)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        if window := self.pace.next():
            yield from islice(self.batches, window.total)
        else:
            self.batches.close()


class Stopwatch:
    """The reporter of the last stage: notes when each batch arrives at the sink."""

    def __init__(self, pace: Pace, batch_size: int) -> None:
        self.pace, self.batch_size = pace, batch_size
        self.arrivals: list[float] = []

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "start":
                self.pace.seat.answer("ready")
            case "progress":
                self.arrivals.append(time.perf_counter())
            case "epoch" if self.arrivals:
                window = self.pace.window if self.pace.seat.world.first else self.pace.next()
                assert window
                lap = Lap(window.batches * self.batch_size, window.seconds(self.arrivals), {"stages": event["record"]["stages"]})
                self.arrivals = []
                self.pace.seat.answer(lap)
