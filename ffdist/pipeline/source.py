"""The head of the stream: batches in their order, and the markers between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Event

import torch
from torch import Tensor

from ffdist.data import Loader
from ffdist.models import derive_seed, seeded
from ffdist.objectives import Objective
from ffdist.pipeline.contract import own_code
from ffdist.pipeline.message import EndOfEpoch, EndOfSplit, EvalBatch, Message, Snapshot, Stop, TrainBatch
from ffdist.pipeline.predictions import Predictions
from ffdist.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: `step` batches are learned; `batch` of `epoch` comes next (epochs and batches from 0)."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Loaders:
    """The splits of a run; `validation` and `test` may be missing."""

    train: Loader
    validation: Loader | None = None
    test: Loader | None = None


ValidationOf = Callable[[int], float]
"""Waits for the validation accuracy of an epoch that has left the source before."""


class Source:
    """Iterates over the messages of a whole run, from `start` on; setting `stop` ends it early, with a snapshot.

    A stop within an epoch comes after the batch at work; behind the epoch's last batch, after what ends the epoch.
    """

    def __init__(
        self,
        loaders: Loaders,
        objective: Objective,
        training: TrainingSettings,
        *,
        snapshot_every: int | None = None,
        num_classes: int,
        start: Position = Position(),
        history: list[float] | None = None,
        validation_of: ValidationOf | None = None,
        predictions: Predictions | None = None,
        stop: Event | None = None,
    ) -> None:
        self.loaders, self.objective, self.training = loaders, objective, training
        self.num_classes, self.at = num_classes, start
        self.snapshot_every = snapshot_every
        self.history = list(history or [])
        """Validation accuracy of the epochs whose results the source has seen."""
        self.validation_of = validation_of
        self.predictions = predictions
        """Where the objective wants to know what the blocks say of training samples."""
        self.stop = stop or Event()

    def __iter__(self) -> Iterator[Message]:
        while self.at.epoch < self.training.epochs and not self._stale():
            if (yield from self._train()):
                yield from self._end_epoch()
            yield self._snapshot()
            if self.stop.is_set():
                yield Stop("interrupted")
                return
        yield from self._evaluate("test", self.loaders.test)
        yield Stop()

    def _train(self) -> Generator[Message, None, bool]:
        """The rest of the epoch's batches, or those up to a stop; whether they were all."""
        every = self.snapshot_every
        batches = self.loaders.train.epoch(self.at.epoch, self.at.batch)
        for x, y in batches:
            step = self.at.step + 1
            yield from self._microbatches(x, y, step)
            self.at = Position(step, self.at.epoch, self.at.batch + 1)
            if self.stop.is_set() and self.at.batch < len(self.loaders.train):
                return False
            if every and step % every == 0 and self.at.batch < len(self.loaders.train):
                yield self._snapshot()
        return True

    def _end_epoch(self) -> Iterator[Message]:
        yield EndOfSplit("train", self.at.epoch)
        yield from self._evaluate("validation", self.loaders.validation)
        yield EndOfEpoch(self.at.epoch)
        self.at = Position(self.at.step, self.at.epoch + 1, 0)

    def _evaluate(self, split: str, loader: Loader | None) -> Iterator[Message]:
        if loader is None:
            return
        for x, y in loader.epoch(0):
            for xs, ys in zip(x.chunk(self.training.microbatches), y.chunk(self.training.microbatches), strict=True):
                with self._seeded("evaluation"):
                    prepared = self.objective.prepare_eval(xs, self.num_classes)
                yield EvalBatch(split, prepared, ys)
        yield EndOfSplit(split, self.at.epoch)

    def _microbatches(self, x: Tensor, y: Tensor, step: int) -> Iterator[TrainBatch]:
        generator = torch.Generator().manual_seed(derive_seed(self.training.seed, "source", step))
        parts = list(zip(x.chunk(self.training.microbatches), y.chunk(self.training.microbatches), strict=True))
        told = (
            self.predictions.before(step).chunk(self.training.microbatches) if self.predictions else [None] * len(parts)
        )
        for part, ((xs, ys), known) in enumerate(zip(parts, told, strict=True)):
            with self._seeded("preparation", step, part):
                prepared = self._prepare(xs, ys, known, generator)
            scores = None if known is None else torch.zeros_like(known)
            yield TrainBatch(
                step, prepared, ys, self.at.epoch, part, len(ys) / len(y), part == len(parts) - 1, scores=scores
            )

    def _prepare(self, x: Tensor, y: Tensor, known: Tensor | None, generator: torch.Generator) -> Tensor:
        if known is None:
            return self.objective.prepare(x, y, self.num_classes, generator)
        return self.objective.prepare_told(x, y, known, generator)

    def _seeded(self, purpose: str, *place: int) -> AbstractContextManager[None]:
        """Around a user's own rule, which may draw from the process's generators rather than from the one it gets."""
        if not own_code(self.objective, ()):
            return nullcontext()
        return seeded(derive_seed(self.training.seed, purpose, *place))

    def _snapshot(self) -> Snapshot:
        marker = Snapshot(self.at.step, self.at.epoch, self.at.batch)
        if self.predictions:
            marker.beside += self.predictions.save(marker)
        return marker

    def _stale(self) -> bool:
        """Looks at the results one epoch behind: deterministic, and long arrived."""
        patience, last = self.training.early_stop, self.at.epoch - 2
        if patience is None or self.validation_of is None or self.loaders.validation is None or last < 0:
            return False
        while len(self.history) <= last:
            self.history.append(self.validation_of(len(self.history)))
        best = max(range(last + 1), key=self.history.__getitem__)
        return last - best >= patience
