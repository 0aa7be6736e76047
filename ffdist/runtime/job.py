"""The job, what is to be trained and how: all that a stage must know besides its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffdist.data import Images, Loader, Split, split_indices
from ffdist.errors import DataError, setting
from ffdist.models import Chain
from ffdist.objectives import BlockSpec, Objective
from ffdist.objectives.base import label_shares
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.own_metrics import Metric, named_metrics
from ffdist.pipeline.plan import block_specs
from ffdist.pipeline.source import Loaders
from ffdist.runtime.heartbeat import WORK_TIMEOUTS
from ffdist.settings import Settings

VALIDATION_SHARE = 0.2
"""Held out where nobody says otherwise."""


@dataclass(frozen=True)
class Job:
    """A network, a rule, data, and how to run them."""

    chain: Chain
    objective: Objective
    images: Images
    settings: Settings
    workers: int = 1
    """Who share the work out, by a plan that is made when they meet."""
    run: Path | None = None
    """Run folder for logs and snapshots; None keeps nothing on disk."""
    resume: bool = False
    """Go on from the last snapshot there."""
    report_every: float = 0.25
    """Seconds between two reports of progress; 0 reports every batch as it arrives."""
    metrics: Mapping[str, Metric] = field(default_factory=dict, kw_only=True)
    """A user's own metrics, that were given in Python, by name."""
    watched: bool = field(default=False, kw_only=True)
    """Whether somebody else notices a worker that is silent: then its neighbours take it for slow."""
    ready: Callable[[], None] | None = field(default=None, kw_only=True)
    """Called by the last stage when all is ready for the first batch: the run's folder says so from then on."""

    @property
    def timeout(self) -> timedelta:
        """The time after which a neighbour that does not answer counts as hung."""
        return timedelta(seconds=self.settings.run.timeout * (WORK_TIMEOUTS if self.watched else 1))

    @property
    def names(self) -> list[str]:
        """The names of all blocks, and of the fusion head."""
        return [*self.chain.names, FUSION] if self.settings.rule.fusion else self.chain.names

    def own_metrics(self) -> dict[str, Metric]:
        """Those that were given, and those that the settings name. Raises ConfigError where one is not there."""
        return {**named_metrics(self.settings.watch.metric, self.chain.num_classes), **self.metrics}

    def block_specs(self) -> list[BlockSpec]:
        """The specs of all blocks, and of the fusion head."""
        return block_specs(self.chain, self.objective if self.settings.rule.fusion else None)

    @property
    def validation_share(self) -> float | None:
        """The share of the training samples held out for validation; None where the data's own split is taken."""
        share = self.settings.dataset.validation
        if share is None:
            return VALIDATION_SHARE if self.images.validation is None else None
        return share

    def loaders(self) -> Loaders:
        """The splits' loaders; the same on every rank."""
        settings, images = self.settings, self.images
        share = self.validation_share
        if not len(images.train):
            raise DataError(
                "the data have no training split",
                where=f"data set {images.name}",
                expected="samples to train on",
                remedy="they are for `ffdist eval RUN --data`; prepared with a smaller "
                f"{setting('test_fraction')} they have one",
            )
        train, held_out = split_indices(
            images.train.labels, validation=share or 0.0, samples=settings.dataset.samples, seed=settings.training.seed
        )
        picked = self._loader(images.train, held_out) if len(held_out) else None
        return Loaders(
            self._loader(images.train, train, training=True),
            self._whole(images.validation) if share is None else picked,
            self.test_loader(),
        )

    def first_samples(self, train: Loader) -> tuple[Tensor, Tensor]:
        """The first training sample and the first of another class (else the next one, or itself again), as a network
        gets them: float32 [2, *shape], labels int64 [2]; shares float32 [2, K] where samples are mixed."""
        rows = train.indices
        others = np.flatnonzero(train.split.labels[rows] != train.split.labels[rows[0]])
        pair = rows[[0, others[0] if len(others) else min(1, len(rows) - 1)]]
        loader = Loader(
            self.images,
            train.split,
            pair,
            batch_size=2,
            seed=self.settings.training.seed,
            train=False,
            image_size=self.settings.dataset.image_size,
        )
        x, y = loader.batch(pair, 0, 0)
        return x, label_shares(y, self.images.num_classes) if train.mixing else y

    def test_loader(self) -> Loader | None:
        """A loader of the test split alone: it needs no other."""
        return self._whole(self.images.test)

    def _whole(self, split: Split | None) -> Loader | None:
        return None if split is None else self._loader(split, np.arange(len(split)))

    def _loader(self, split: Split, indices: np.ndarray, *, training: bool = False) -> Loader:
        training_, data = self.settings.training, self.settings.dataset
        return Loader(
            self.images,
            split,
            indices,
            batch_size=training_.batch_size,
            seed=training_.seed,
            train=training,
            augment=data.augment if training else (),
            image_size=data.image_size,
            workers=data.loader_workers,
            shuffle_shards=data.shuffle_shards,
        )

    def block_config(self, device: torch.device, total_steps: int) -> BlockConfig:
        return BlockConfig(self.settings, total_steps, device)
