"""The end of the stream: collects what the markers bring, commits snapshots, reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ffdist.events import EpochEnded, Observer, ProgressMade, PulseReported, RunStopped, SnapshotCommitted, now
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
    Written,
)
from ffdist.pipeline.own_metrics import OwnMetrics
from ffdist.pipeline.predictors import ScoreTally, accuracy_by, last_weights
from ffdist.pipeline.route import block_of, united
from ffdist.pipeline.score_table import ScoreSender

Commit = Callable[[Snapshot, list[dict[str, Any]]], None]
"""Makes a snapshot whose files are all on disk the latest; gets the records of the epochs so far with it."""


class Sink:
    """Takes the last stage's messages. Its records are JSON-able and depend on the stream alone, times excepted."""

    def __init__(
        self,
        *,
        commit: Commit,
        publish: Callable[[int, float], None],
        observer: Observer,
        score_sender: ScoreSender | None = None,
        records: list[dict[str, Any]] | None = None,
        metrics: OwnMetrics | None = None,
        predictor: str = "mean",
        restored: Callable[[Restore], None] = lambda marker: None,
        report_every: float = 0.25,
    ) -> None:
        """commit: of a snapshot whose files are all on disk. publish: gets each epoch, from 0, with its validation
        accuracy. predictor: whose accuracy that is. restored: called when all stages have restored a snapshot.
        report_every: seconds between two events of progress, at least."""
        self.commit = commit
        self.publish = publish
        self.observer = observer
        self.score_sender = score_sender
        self.predictor = predictor
        self.restored = restored
        self.records = list(records or [])
        """One an epoch; "epoch" counts from 1."""
        self.test: dict[str, Any] | None = None
        self.waited = 0.0
        self.metrics = metrics or OwnMetrics()
        """The metrics of a user's own."""
        self.tally = ScoreTally(self.metrics)
        self.weights = last_weights(self.records)
        """The weights of the blocks, from the last validation split that has passed."""
        self.open_record: dict[str, Any] = {}
        """What is known of the epoch that is not over."""
        self.report_every = report_every
        self.reported = 0.0
        self.began: float | None = None
        """When the epoch's first batch arrived here; the fill of the pipeline is before it."""
        self.epoch_samples = 0
        self.pulsed: tuple[float, int] | None = None
        """When the epoch's last pulse came, and how many of its samples were counted then."""
        self.step = 0
        """The step of the last training batch."""
        self.pending: Snapshot | None = None
        """A snapshot that is not committed yet: some of its files are still being written."""

    def send(self, message: Message) -> None:
        match message:
            case TrainBatch():
                if self.score_sender:
                    self.score_sender.send(message)
                self._progress(message)
            case EvalBatch() if len(message.y):  # of lanes, some may be empty
                self.tally.add(message, self.weights)
            case EndOfSplit():
                self._end_split(message)
            case Pulse():
                self._pulse(message)
            case EndOfEpoch():
                self._end_epoch(message)
            case Snapshot():
                if self.score_sender:
                    message.extra_files += self.score_sender.save(message)
                self.pending = message
                self._commit_if_whole(message)
            case Written():
                self._add_written(message)
            case Restore():
                self.weights = last_weights(self.records[: message.epoch])
                self.restored(message)
            case Stop():
                self.observer(RunStopped(message.reason, self.test, self.records))

    def _add_written(self, written: Written) -> None:
        marker = self.pending
        assert marker, "it follows a snapshot's marker"
        assert (written.step, written.epoch) == (marker.step, marker.epoch), (
            "a stage tells of one before it begins the next"
        )
        marker.files = united(marker.files, written.files, lambda entry: block_of(entry["file"]))
        self._commit_if_whole(marker)

    def _commit_if_whole(self, marker: Snapshot) -> None:
        if {*marker.awaited} <= {entry["file"] for entry in marker.files}:
            self.pending = None
            self.commit(marker, self.records)
            self.observer(SnapshotCommitted(marker.step, marker.epoch))

    def _progress(self, batch: TrainBatch) -> None:
        at, self.step = time.perf_counter(), batch.step
        if self.began is None:
            self.began = at
        else:
            self.epoch_samples += len(batch.y)
        if batch.complete and at - self.reported >= self.report_every:
            self.reported = at
            self.observer(ProgressMade(batch.step))

    def _pulse(self, marker: Pulse) -> None:
        at, samples = time.perf_counter(), self.epoch_samples
        before, counted = self.pulsed or (self.began or at, 0)
        self.pulsed = at, samples
        speed = (samples - counted) / (at - before) if samples > counted else None
        self.observer(PulseReported(marker.step, marker.epoch + 1, now(), speed, marker.stages))

    def _end_split(self, marker: EndOfSplit) -> None:
        match marker.split:
            case "train":
                self.open_record["train"] = {"blocks": marker.blocks, "samples_per_second": self._speed()}
            case "validation":
                weights, result = self.tally.weights(), self._take(marker)
                self.open_record["validation"], self.weights = result | {"weights": weights}, weights
                self.publish(marker.epoch, accuracy_by(self.predictor, result["accuracy"]))
            case "test":
                self.test = self._take(marker)

    def _take(self, marker: EndOfSplit) -> dict[str, Any]:
        result, self.tally = self.tally.result(marker.blocks), ScoreTally(self.metrics)
        return result

    def _speed(self) -> float | None:
        """Samples a second since the epoch's first batch, that batch left out: the pipeline filled while it came. None
        where it was the only one."""
        began, samples = self.began, self.epoch_samples
        self.began, self.epoch_samples, self.pulsed = None, 0, None
        return samples / (time.perf_counter() - began) if began and samples else None

    def _end_epoch(self, marker: EndOfEpoch) -> None:
        known, self.open_record = self.open_record, {}
        record = {"epoch": marker.epoch + 1, "step": self.step, "time": now(), **known, "stages": marker.stages}
        self.records.append(record)
        self.observer(EpochEnded(record))


def counted_from_one(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run's records from its first epoch on, as they are written now; older versions counted epochs from 0."""
    if not records or records[0]["epoch"] != 0:
        return records
    return [record | {"epoch": record["epoch"] + 1} for record in records]
