"""The job that a benchmark's processes make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ffdist.models import Chain
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
        job = SettingsJob(self.settings, None, self.stages)()
        return replace(job, chain=compiled(job.chain)) if self.compiled else job


class _Compiled:
    """A builder whose block compiles itself at its first call; shapes on the meta device are found without."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build

    def __call__(self) -> nn.Module:
        block = self.build()
        if torch.get_default_device().type != "meta":
            block.compile()
        return block


def compiled(chain: Chain) -> Chain:
    """The same chain; torch.compile rewrites each block by itself."""
    blocks = [(name, _Compiled(build)) for name, build in zip(chain.names, chain.builders, strict=True)]
    shape, num_classes = chain.input_shape, chain.num_classes
    return Chain(blocks, input_shape=shape, num_classes=num_classes, classifier=chain.build_classifier, axes=chain.axes)
