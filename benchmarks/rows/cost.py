"""The cost of a row on this machine, from a few of its batches."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple, TypeVar

from ffdist.pipeline.message import EvalBatch, Message, TrainBatch
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.source import Loaders, Source
from ffdist.pipeline.stage import Stage
from ffdist.runtime.job import Job
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.start import make_job
from ffdist.runtime.worker import set_threads, stage_device
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.transport.measure import watch_parent

M = TypeVar("M", TrainBatch, EvalBatch)


class Cost(NamedTuple):
    """The cost of one seed of a row, in one process."""

    cpu_seconds: float
    """Seconds of computing, all threads together: wall seconds on a core that does nothing else."""
    peak_mib: int
    """Resident memory of the process, at most."""

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.cpu_seconds), 60)
        return f"about {minutes // 60} h {minutes % 60:02} min {seconds:02} s of CPU, {self.peak_mib:,} MiB"


def estimate(settings: Settings) -> Cost:
    """The cost of a run with these settings, from a few batches in a process of its own.

    Raises DataError where the data are not prepared.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=watch_parent) as pool:
        return pool.submit(measure, settings).result()


def measure(settings: Settings, batches: int = 5) -> Cost:
    """The cost, measured in this process. Rules that let blocks rest cost less, and so do runs that stop early."""
    set_threads(settings.compute.threads, World())
    job = make_job(settings, open_dataset(settings.dataset))
    loaders = job.loaders()
    stage, epochs = whole_network(job), settings.training.epochs
    out = Nowhere()
    learn = seconds(lambda m: stage.train(m, out), training(job, loaders), batches)
    score = seconds(stage.evaluate, scoring(job, loaders), batches)
    scored = len(loaders.test or ()) + epochs * len(loaders.validation or ())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)
    return Cost(epochs * len(loaders.train) * learn + scored * score, peak)


def whole_network(job: Job) -> Stage:
    config = job.block_config(stage_device(job.settings.compute.device, World()), 1000)
    return Stage(
        0,
        [build_block(job.chain, spec, job.objective, config) for spec in job.block_specs()],
        lambda blocks, marker: {},
    )


def training(job: Job, loaders: Loaders) -> Iterator[TrainBatch]:
    source = Source(
        loaders,
        job.objective,
        replace(job.settings.training, epochs=sys.maxsize),
        num_classes=job.chain.num_classes,
    )
    return (message for message in source if isinstance(message, TrainBatch))


def scoring(job: Job, loaders: Loaders) -> Iterator[EvalBatch]:
    loader = loaders.test or loaders.validation or loaders.train
    for x, y in cycle(islice(loader.epoch(0), 2)):
        yield EvalBatch("test", job.objective.prepare_eval(x, job.chain.num_classes), y)


def seconds(work: Callable[[M], object], messages: Iterator[M], batches: int) -> float:
    """CPU seconds a batch, its making included; the first, which warms up, left out."""
    times = []
    for _ in range(batches + 1):
        begun = time.process_time()
        work(next(messages))
        times.append(time.process_time() - begun)
    return median(times[1:])


class Nowhere:
    """An outbox for the last block, which drops what it sends."""

    waited = 0.0

    def send(self, message: Message) -> None:
        pass
