"""The head of the stream: batches in their order, and the markers between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import torch
from torch import Tensor

from ffdist.data import Loader
from ffdist.models import derive_seed, seeded
from ffdist.objectives import Objective
from ffdist.pipeline.contract import own_code
from ffdist.pipeline.lanes import MicrobatchRange, parts
from ffdist.pipeline.message import (
    EndOfEpoch,
    EndOfSplit,
    EvalBatch,
    Message,
    Pulse,
    Restore,
    Snapshot,
    Stop,
    TrainBatch,
)
from ffdist.pipeline.pulses import EveryBatches, Pulses
from ffdist.pipeline.score_table import ScoreTable
from ffdist.plan import EVERY_BATCH
from ffdist.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a run: `step` batches are learned; `batch` of `epoch` comes next (epochs and batches from 0)."""

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


class Stopping(Protocol):
    """Says whether the run is to end early: the same for all who make a part of the batches."""

    def is_stopping(self, step: int, *, waiting: bool = True) -> bool:
        """True if the run ends after batch `step`; waiting: there is still something under way."""
        ...

    def is_stopping_evaluation(self, step: int, batch: int) -> bool:
        """True if the run ends before batch `batch` of an evaluation after batch `step`; asked once of each, in
        order."""
        ...


@dataclass(frozen=True, slots=True)
class StopAtOnce:
    """Stops at once: for a source that makes whole batches."""

    event: Event

    def is_stopping(self, step: int, *, waiting: bool = True) -> bool:
        return self.event.is_set()

    def is_stopping_evaluation(self, step: int, batch: int) -> bool:
        return self.event.is_set()


class Source:
    """Iterates over the messages of a whole run, from `start` on; setting `stop` ends it early, with a snapshot.

    A stop within an epoch comes after the batch at work; within an evaluation that is given up, with a snapshot of the
    batch before it.
    """

    def __init__(
        self,
        loaders: Loaders,
        objective: Objective,
        training: TrainingSettings,
        *,
        snapshot_every: int | None = None,
        pulses: Pulses | None = None,
        num_classes: int,
        start: Position = Position(),
        history: list[float] | None = None,
        validation_of: ValidationOf | None = None,
        score_table: ScoreTable | None = None,
        stop: Stopping | None = None,
        lanes: range | None = None,
        orders: range = EVERY_BATCH,
        leads: bool = True,
        is_kept: Callable[[Restore], bool] = lambda best: False,
    ) -> None:
        """is_kept: whether there is a snapshot to end with.
        lanes: those of each batch that this source makes; None: all. orders: of the batches that it makes, by their
        place in the stream. leads: whether it writes what sources keep."""
        self.loaders = loaders
        self.objective = objective
        self.training = training
        self.num_classes = num_classes
        self.at = self.start = start
        self.snapshot_every = snapshot_every
        self.pulses = pulses or EveryBatches(0)
        self.history = list(history or [])
        """Validation accuracy of the epochs whose results the source has seen."""
        self.validation_of = validation_of
        self.is_kept = is_kept
        self.score_table = score_table
        """Where the objective wants to know what the blocks say of training samples."""
        self.stop = stop or StopAtOnce(Event())
        self.num_lanes = training.lanes or 1
        """Lanes of a batch."""
        self.lanes = lanes if lanes is not None else range(self.num_lanes)
        self.orders = orders
        self.order = 0
        """The place in the stream of the batch that comes next."""
        self.leads = leads
        if len(self.lanes) < self.num_lanes:
            for loader in filter(None, (loaders.train, loaders.validation, loaders.test)):
                loader.shard = (self.lanes.start, self.lanes.stop, self.num_lanes)

    def __iter__(self) -> Iterator[Message]:
        while self.at.epoch < self.training.epochs and not self._is_stale():
            if (yield from self._train()) and not (yield from self._end_epoch()):
                if self.at != self.start:  # else there is that snapshot, from which the run has gone on
                    yield self._snapshot(cuts_evaluation=True)
                yield Stop("interrupted")
                return
            yield self._snapshot()
            if self.stop.is_stopping(self.at.step, waiting=False):
                yield Stop("interrupted")
                return
        if best := self._best_snapshot():
            yield best
        whole = yield from self._evaluate("test", self.loaders.test)
        yield Stop() if whole else Stop("interrupted")

    def _train(self) -> Generator[Message, None, bool]:
        """The rest of the epoch's batches, or those up to a stop; returns True if they were all."""
        every = self.snapshot_every
        for made in self._batches(self.loaders.train, self.at.epoch, self.at.batch):
            step = self.at.step + 1
            known = self.score_table.before(step) if self.score_table else None
            if made:
                yield from self._microbatches(*made, known, step)
            self.order += 1
            self.at = Position(step, self.at.epoch, self.at.batch + 1)
            if self.pulses.is_due(step) and self.at.batch < len(self.loaders.train):
                yield Pulse(step, self.at.epoch)
            if self.at.batch < len(self.loaders.train) and self.stop.is_stopping(step):
                return False
            if every and step % every == 0 and self.at.batch < len(self.loaders.train):
                yield self._snapshot()
        return True

    def _end_epoch(self) -> Generator[Message, None, bool]:
        """The end of an epoch; returns False where a stop came before."""
        yield EndOfSplit("train", self.at.epoch)
        if not (yield from self._evaluate("validation", self.loaders.validation)):
            return False
        yield EndOfEpoch(self.at.epoch)
        self.at = Position(self.at.step, self.at.epoch + 1, 0)
        return True

    def _evaluate(self, split: str, loader: Loader | None) -> Generator[Message, None, bool]:
        """A split's batches, or those up to a stop; returns True if they were all."""
        if loader is None:
            return True
        number = 0
        for batch, made in enumerate(self._batches(loader, 0, 0)):
            if self.stop.is_stopping_evaluation(self.at.step, batch):
                return False
            microbatches = parts(loader.batch_samples(batch), self.num_lanes, self.training.microbatches)
            for part in (part for part in microbatches if part.lane in self.lanes):
                if made:
                    x, y = (each[self._rows_here(part, microbatches)] for each in made)
                    yield self._eval_batch(split, x, y, number + microbatches.index(part), part)
            number += len(microbatches)
            self.order += 1
        yield EndOfSplit(split, self.at.epoch)
        return True

    def _eval_batch(self, split: str, x: Tensor, y: Tensor, number: int, part: MicrobatchRange) -> EvalBatch:
        if not len(y):
            return EvalBatch(split, None, y, number, part.lane, part.last, order=self.order)
        with self._seeded("evaluation"):
            prepared = self.objective.prepare_eval(x, self.num_classes)
        return EvalBatch(split, prepared, y, number, part.lane, part.last, order=self.order)

    def _batches(self, loader: Loader, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Each batch of an epoch from `first` on; None for those that another source makes."""
        stride = self.orders.step
        return loader.strided_epoch(epoch, first, (self.orders.start - self.order) % stride, stride)

    def _rows_here(self, part: MicrobatchRange, microbatches: list[MicrobatchRange]) -> slice:
        """The rows of a part in what the loader makes here, which begins with the first of this source's lanes."""
        first = next(each.rows.start for each in microbatches if each.lane == self.lanes.start)
        return slice(part.rows.start - first, part.rows.stop - first)

    def _microbatches(self, x: Tensor, y: Tensor, known: Tensor | None, step: int) -> Iterator[TrainBatch]:
        """x, y: of this source's lanes. known: what the blocks have said of the whole batch's samples."""
        samples = self.loaders.train.batch_samples(self.at.batch)
        microbatches = parts(samples, self.num_lanes, self.training.microbatches)
        generator = torch.Generator()
        for part in (part for part in microbatches if part.lane in self.lanes):
            rows = self._rows_here(part, microbatches)
            if part.number % self.training.microbatches == 0:  # a lane begins; it draws what it draws anywhere
                place = () if self.num_lanes == 1 else (part.lane,)
                generator.manual_seed(derive_seed(self.training.seed, "source", step, *place))
            scores = None if known is None else known[part.rows]
            yield self._train_batch(
                x[rows], y[rows], scores, part, samples, step, generator, complete=part is microbatches[-1]
            )

    def _train_batch(
        self,
        x: Tensor,
        y: Tensor,
        known: Tensor | None,
        part: MicrobatchRange,
        samples: int,
        step: int,
        generator: torch.Generator,
        *,
        complete: bool,
    ) -> TrainBatch:
        prepared = companion = None
        if len(y):
            with self._seeded("preparation", step, part.number):
                prepared, companion = self._prepare(x, y, known, generator), self.objective.companion(x)
        return TrainBatch(
            step,
            prepared,
            y,
            self.at.epoch,
            part.number,
            len(y) / samples,
            complete,
            part.lane,
            part.last,
            scores=None if known is None else torch.zeros_like(known),
            companion=companion,
            order=self.order,
        )

    def _prepare(self, x: Tensor, y: Tensor, known: Tensor | None, generator: torch.Generator) -> Tensor:
        if known is None:
            return self.objective.prepare(x, y, self.num_classes, generator)
        return self.objective.prepare_with_scores(x, y, known, generator)

    def _seeded(self, purpose: str, *place: int) -> AbstractContextManager[None]:
        """A context for a user's own rule, which may draw from the process's generators rather than from the one it
        gets."""
        if not own_code(self.objective, ()):
            return nullcontext()
        return seeded(derive_seed(self.training.seed, purpose, *place))

    def _snapshot(self, *, cuts_evaluation: bool = False) -> Snapshot:
        marker = Snapshot(self.at.step, self.at.epoch, self.at.batch, cuts_evaluation=cuts_evaluation)
        if self.score_table and self.leads:
            marker.extra_files += self.score_table.save(marker)
        return marker

    def _best_snapshot(self) -> Restore | None:
        """The snapshot that a run ends with, where it may stop early: of the best epoch, the first of equal ones. None
        where that is what has been learned last."""
        if self.training.early_stop is None or self.validation_of is None or self.loaders.validation is None:
            return None
        while len(self.history) < self.at.epoch:
            self.history.append(self.validation_of(len(self.history)))
        best = max(range(self.at.epoch), key=self.history.__getitem__, default=self.at.epoch - 1)
        marker = Restore((best + 1) * len(self.loaders.train), best + 1)
        return marker if best < self.at.epoch - 1 and self.is_kept(marker) else None

    def _is_stale(self) -> bool:
        """True if the run is to stop early, by the results up to one epoch ago: these have long arrived, so that nobody
        waits, and the epoch at which a run stops does not depend on how fast they came."""
        patience, last = self.training.early_stop, self.at.epoch - 2
        if patience is None or self.validation_of is None or self.loaders.validation is None or last < 0:
            return False
        while len(self.history) <= last:
            self.history.append(self.validation_of(len(self.history)))
        best = max(range(last + 1), key=self.history.__getitem__)
        return last - best >= patience
