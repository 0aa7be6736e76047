"""What is to be trained and how: all that a stage must know besides its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ffdist.data import Images, Loader, Split, split_indices
from ffdist.errors import DataError
from ffdist.models import Chain
from ffdist.objectives import Objective, Site
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.optim import OptimConfig
from ffdist.pipeline.plan import sites
from ffdist.pipeline.source import Loaders, Schedule

VALIDATION_SHARE = 0.2
"""Held out where nobody says otherwise."""


@dataclass(frozen=True)
class JobConfig:
    """How a job is run. What decides the result comes first; what does not (stages, cut, queue, ...) after it."""

    schedule: Schedule
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_size: int = 128
    microbatches: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    validation: float | None = None
    """Share of the training samples held out; None: the data's own validation split, or a fifth; 0: no validation."""
    samples: int | None = None
    image_size: int | None = None
    augment: Sequence[str] = ()
    fusion: bool = False
    """A fusion head behind the last block; for cuts and files it is one more block."""
    stages: int = 1
    cut: Sequence[int] = ()
    """Blocks in each stage; empty: dealt by measured time."""
    queue: int = 2
    transport: str = "auto"
    device: str = "cpu"
    """auto, cpu, or a kind of accelerator, with or without its number."""
    threads: int | None = None
    timeout: timedelta = timedelta(minutes=10)
    run: Path | None = None
    """Run directory for logs and snapshots; None keeps nothing on disk."""
    keep: int = 2
    resume: bool = False
    report_every: float = 0.25
    """Seconds between two reports of progress; 0 reports every batch as it arrives."""


@dataclass(frozen=True)
class Job:
    """A network, a rule, data, and how to run them."""

    chain: Chain
    objective: Objective
    images: Images
    config: JobConfig
    ready: Callable[[], None] | None = field(default=None, kw_only=True)
    """Called by the last stage when all is ready for the first batch: a run that goes on says so from then on."""

    @property
    def names(self) -> list[str]:
        """Of all blocks, and of the fusion head."""
        return [*self.chain.names, FUSION] if self.config.fusion else self.chain.names

    def sites(self) -> list[Site]:
        """Of all blocks, and of the fusion head."""
        return sites(self.chain, self.objective if self.config.fusion else None)

    @property
    def validation_share(self) -> float | None:
        """Of the training samples, held out for validation; None where the data's own split is taken."""
        told = self.config.validation
        if told is None:
            return VALIDATION_SHARE if self.images.validation is None else None
        return told

    def loaders(self) -> Loaders:
        """The splits' loaders; the same on every rank."""
        c, images = self.config, self.images
        share = self.validation_share
        if not len(images.train):
            raise DataError(
                "the data have no training split",
                where=f"data set {images.name}",
                expected="samples to train on",
                remedy="they are for `ffdist eval RUN --data`; prepared with a smaller --test-fraction they have one",
            )
        train, held_out = split_indices(images.train.labels, validation=share or 0.0, samples=c.samples, seed=c.seed)
        picked = self._loader(images.train, held_out) if len(held_out) else None
        return Loaders(
            self._loader(images.train, train, training=True),
            self._whole(images.validation) if share is None else picked,
            self.test_loader(),
        )

    def first_samples(self, train: Loader) -> tuple[Tensor, Tensor]:
        """The first training sample and the first of another class (else the next one, or itself again), as a network
        gets them: float32 [2, *shape], labels int64 [2]."""
        rows = train.indices
        others = np.flatnonzero(train.split.labels[rows] != train.split.labels[rows[0]])
        pair = rows[[0, others[0] if len(others) else min(1, len(rows) - 1)]]
        loader = Loader(self.images, train.split, pair, batch_size=2, seed=self.config.seed, train=False,
                        image_size=self.config.image_size)  # fmt: skip
        return loader.batch(pair, 0, 0)

    def test_loader(self) -> Loader | None:
        """Of the test split alone: it needs no other."""
        return self._whole(self.images.test)

    def _whole(self, split: Split | None) -> Loader | None:
        return None if split is None else self._loader(split, np.arange(len(split)))

    def _loader(self, split: Split, indices: np.ndarray, *, training: bool = False) -> Loader:
        c = self.config
        return Loader(self.images, split, indices, batch_size=c.batch_size, seed=c.seed, train=training,
                      augment=c.augment if training else (), image_size=c.image_size)  # fmt: skip

    def block_config(self, device: torch.device, total_steps: int) -> BlockConfig:
        c = self.config
        return BlockConfig(c.optim, total_steps, c.seed, c.precision, device, c.fusion)
