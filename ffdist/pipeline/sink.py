"""The end of the stream: collects what the markers bring, commits snapshots, reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch.nn.functional as F

from ffdist.errors import NetworkError
from ffdist.pipeline.message import EndOfEpoch, EndOfSplit, EvalBatch, Message, Snapshot, Stop, TrainBatch

PREDICTORS = ("mean", "last")
"""mean: the mean of all blocks' scores; last: the last block's."""


class Reporter(Protocol):
    """Who is told how the run goes: a console, the process that started the stages, a log."""

    def __call__(self, event: dict[str, Any]) -> None: ...


Commit = Callable[[Snapshot, list[dict[str, Any]]], None]
"""Makes a snapshot whose files are all on disk the latest; gets the records of the epochs so far with it."""


class Sink:
    """Takes the last stage's messages. Its records are JSON-able and depend on the stream alone, times excepted."""

    def __init__(
        self,
        *,
        commit: Commit,
        publish: Callable[[int, float], None],
        report: Reporter,
        records: list[dict[str, Any]] | None = None,
        report_every: float = 0.25,
    ) -> None:
        self.commit, self.publish, self.report = commit, publish, report
        self.records = list(records or [])
        """One an epoch."""
        self.test: dict[str, Any] | None = None
        self.waited = 0.0
        self.tally = Tally()
        self.open: dict[str, Any] = {}
        self.report_every, self.reported = report_every, 0.0
        self.began: float | None = None
        """When the epoch's first batch arrived here; the fill of the pipeline is before it."""
        self.epoch_samples = 0

    def send(self, message: Message) -> None:
        match message:
            case TrainBatch():
                self._progress(message)
            case EvalBatch():
                self.tally.add(message)
            case EndOfSplit():
                self._end_split(message)
            case EndOfEpoch():
                self._end_epoch(message)
            case Snapshot():
                self.commit(message, self.records)
            case Stop():
                self.report({"event": "stop", "reason": message.reason, "test": self.test, "records": self.records})

    def _progress(self, batch: TrainBatch) -> None:
        now = time.perf_counter()
        if self.began is None:
            self.began = now
        else:
            self.epoch_samples += len(batch.y)
        if batch.complete and now - self.reported >= self.report_every:
            self.reported = now
            self.report({"event": "progress", "step": batch.step})

    def _end_split(self, marker: EndOfSplit) -> None:
        result: dict[str, Any] = {"blocks": marker.blocks}
        if marker.split == "train":
            seconds = time.perf_counter() - (self.began or float("nan"))
            result["samples_per_second"] = self.epoch_samples / seconds
            self.began, self.epoch_samples = None, 0
        else:
            result |= self.tally.take()
        if marker.split == "test":
            self.test = result
            return
        self.open[marker.split] = result
        if marker.split == "validation":
            self.publish(marker.epoch, result["accuracy"]["mean"])

    def _end_epoch(self, marker: EndOfEpoch) -> None:
        record = {"epoch": marker.epoch, **self.open, "stages": marker.stages}
        self.open = {}
        self.records.append(record)
        self.report({"event": "epoch", "record": record})


class Tally:
    """Counts what the predictors get right on one split."""

    def __init__(self) -> None:
        self.samples = 0
        self.correct = dict.fromkeys(PREDICTORS, 0)
        self.loss = 0.0

    def add(self, batch: EvalBatch) -> None:
        """Scores float32 [B, K], labels int64 [B]."""
        if batch.scores is None or batch.last is None:
            raise NetworkError("no block gives scores under this objective", where=f"the {batch.split} split",
                               remedy="use a network with more blocks, or another objective")  # fmt: skip
        y = batch.y.to(batch.scores.device)
        mean = batch.scores / batch.scored
        self.samples += len(y)
        self.loss += float(F.cross_entropy(mean, y, reduction="sum"))
        self.correct["mean"] += int((mean.argmax(1) == y).sum())
        self.correct["last"] += int((batch.last.argmax(1) == y).sum())

    def take(self) -> dict[str, Any]:
        """Accuracies (fractions) and loss since last taken."""
        result = {
            "samples": self.samples,
            "accuracy": {name: count / self.samples for name, count in self.correct.items()},
            "loss": self.loss / self.samples,
        }
        self.__init__()
        return result
