"""The job that a benchmark's processes make."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


_FOUND: dict[object, Settings] = {}


def in_blocks(settings: Settings) -> Settings:
    """The same with blocks in place of `modules`, which are measured once, in the process that compares: all that it
    starts have the same ones, and only it tells of them."""
    if not settings.network.modules:
        return settings
    key = (settings.network, settings.rule, settings.dataset)
    if key not in _FOUND:
        _FOUND[key] = SettingsJob(settings, None, 1)().settings
    return replace(settings, network=_FOUND[key].network)
