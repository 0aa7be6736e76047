"""From settings to a run: where it goes, who runs the stages, what comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from ffdist.config import TrainSettings, parse_windows
from ffdist.cores import available_cores
from ffdist.data import Images, open_data
from ffdist.device import parsed, seen
from ffdist.errors import ConfigError
from ffdist.models.chain import Output
from ffdist.pipeline.optim import OptimConfig
from ffdist.pipeline.source import Schedule
from ffdist.runtime.data_facts import FACTS, check_same_data, read_facts
from ffdist.runtime.job import Job, JobConfig
from ffdist.runtime.run import network, write_settings


@dataclass(frozen=True)
class SettingsJob:
    """Makes the job that settings describe; sent to a stage's process in place of the data."""

    settings: TrainSettings
    run: Path | None
    stages: int
    recorded: TrainSettings | None = None
    """What the run directory says from when a run that goes on is ready; None for a new one, which says it already."""
    outputs: list[Output] | None = None
    """Of the blocks, where they are known (`Chain.outputs`)."""

    def __call__(self) -> Job:
        """Raises DataError where the data are not those that the run has learned."""
        images = open_data(self.settings.data, self.settings.image_size)
        if self.run and (self.run / FACTS).exists():
            check_same_data(read_facts(self.run), images, self.settings.data)
        job = make_job(self.settings, images, self.run, self.stages)
        if self.outputs is not None:
            job.chain.know_outputs(self.outputs)
        if self.run and self.recorded:
            return replace(job, ready=partial(write_settings, self.run, self.recorded))
        return job


def make_job(settings: TrainSettings, images: Images, run: Path | None, stages: int) -> Job:
    """Raises ConfigError, DataError or NetworkError for settings that do not go together."""
    chain, objective = network(settings, images.shape, images.num_classes, start=not settings.resume)
    return Job(chain, objective, images, job_config(settings, run, stages))


def job_config(settings: TrainSettings, run: Path | None, stages: int) -> JobConfig:
    """How a job is run, by its settings. Raises ConfigError for settings that do not go together."""
    s = settings
    return JobConfig(
        Schedule(s.epochs, s.snapshot_every, s.early_stop),
        OptimConfig(
            optimizer=s.optimizer, lr=s.lr, weight_decay=s.weight_decay, momentum=s.momentum, schedule=s.schedule,
            warmup=s.warmup, patience=s.patience, factor=s.factor, clip=s.clip, no_decay=s.no_decay, ema=s.ema,
            windows=parse_windows(s.windows), nesterov=s.nesterov, muon_momentum=s.muon_momentum,
            bias_lr=s.bias_lr, head_lr=s.head_lr, unit_filters=s.unit_filters,
            ns_steps=s.ns_steps, start=s.start, end=s.end,
        ),
        batch_size=s.batch_size, microbatches=s.microbatches, seed=s.seed, precision=s.precision,
        validation=s.validation, samples=s.samples, image_size=s.image_size, augment=s.augment, fusion=s.fusion,
        stages=stages, cut=s.cut, queue=s.queue, transport=s.transport, device=s.device, threads=s.threads,
        timeout=timedelta(seconds=s.timeout), run=run, keep=s.keep, resume=s.resume,
    )  # fmt: skip


def local_devices(settings: TrainSettings) -> int:
    """GPUs of this host that a run which begins here would use."""
    if settings.device == "cpu" or settings.launcher == "ray":
        return 0
    return seen().number if parsed(settings.device)[1] is None else 1


def count_stages(settings: TrainSettings, blocks: int, ranks: int | None) -> int:
    """How many stages a run has; `ranks` is torchrun's world size, None without torchrun.

    Raises ConfigError when --stages contradicts torchrun, or exceeds the number of blocks.
    """
    asked = settings.stages or (len(settings.cut) or None)
    if ranks is not None and asked not in (None, ranks):
        raise ConfigError("--stages and torchrun disagree", expected=f"{ranks} stages, one a rank", got=asked,
                          remedy=f"--stages {ranks}, or another --nproc-per-node")  # fmt: skip
    count = ranks or asked or min(blocks, local_devices(settings) or min(2, available_cores()))
    if count > 1 and settings.objective == "backprop":
        raise ConfigError("backpropagation's twin is one block: its one loss is behind the last layer",
                          where="torchrun" if ranks else "--stages", expected="1 stage", got=count,
                          remedy="--stages 1; `ffdist bench` runs it on several devices")  # fmt: skip
    if count > blocks:
        raise ConfigError("there are more stages than blocks", where="torchrun" if ranks else "--stages",
                          expected=f"1 to {blocks}, one block a stage at least", got=count,
                          remedy="use fewer stages, or a model with more blocks")  # fmt: skip
    return count
