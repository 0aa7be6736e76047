"""The job that a benchmark's processes make."""

from __future__ import annotations

from dataclasses import dataclass

from ffdist.runtime.job import Job
from ffdist.runtime.start import SettingsJob
from ffdist.settings import Settings


@dataclass(frozen=True)
class BenchJob:
    """Makes the job that `ffdist train` would make of the settings, with its blocks compiled where told."""

    settings: Settings
    stages: int
    compiled: bool = False

    def __call__(self) -> Job:
        return SettingsJob(self.settings.changed(compile=self.compiled), None, self.stages)()
