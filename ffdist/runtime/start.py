"""The job that settings describe, made in whichever process trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ffdist.data import Images
from ffdist.models.outputs import Output
from ffdist.notes import silenced
from ffdist.runtime.data_facts import FACTS, check_same_data, read_facts
from ffdist.runtime.job import Job
from ffdist.runtime.modules import joined_in_modules
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.record import note_start
from ffdist.runtime.run import network
from ffdist.settings import Settings
from ffdist.trust import trusting


@dataclass(frozen=True)
class SettingsJob:
    """Makes the job that settings describe; sent to a stage's process in place of the data."""

    settings: Settings
    run: Path | None
    workers: int
    resume: bool = False
    """Whether there is a snapshot in the run folder to go on from."""
    recorded: Settings | None = None
    """What the run folder says from when a run that goes on is ready; None for a new one, which says it already."""
    environment: dict[str, Any] | None = None
    """What the run folder says of this start (`runtime.record.facts`) from when the stages are ready."""
    outputs: list[Output] | None = None
    """The outputs of the blocks, where they are known (`Chain.outputs`)."""
    folder: Path | None = None
    """The prepared folder of the data, where they were prepared on the way: nobody looks at their source again."""

    def __call__(self) -> Job:
        """Raises DataError where the data are not those that the run has learned."""
        dataset = self.settings.dataset
        with silenced(), trusting(True):  # who made this has opened it, and shown its notes, before
            images = open_dataset(
                dataset if self.folder is None else replace(dataset, data=str(self.folder), data_args=())
            )
            facts = read_facts(self.run) if self.run and (self.run / FACTS).exists() else None
        if facts:
            check_same_data(facts, images, self.settings.dataset.data)
        job = make_job(self.settings, images, self.run, self.workers, resume=self.resume)
        if self.outputs is not None:
            job.chain.know_outputs(self.outputs)
        if self.run and self.environment:
            return replace(job, ready=partial(note_start, self.run, self.environment, self.recorded))
        return job


def make_job(
    settings: Settings, images: Images, run: Path | None = None, workers: int = 1, *, resume: bool = False
) -> Job:
    """resume: whether it goes on from a snapshot in `run`. The job's settings know the blocks of each module.

    Raises ConfigError, DataError or NetworkError for settings that do not go together."""
    if settings.network.modules:
        chain, objective = network(settings, images.shape, images.num_classes)
        settings = joined_in_modules(settings, chain, objective, settings.network.blocks or (1,) * len(chain))
    chain, objective = network(settings, images.shape, images.num_classes, start=not resume)
    return Job(chain, objective, images, settings, workers, run, resume)
