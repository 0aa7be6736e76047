"""The logs of a run: an epoch a line in the run log, and a log for each stage."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ffdist.errors import DataError, FfdistError, SnapshotError, described
from ffdist.events import SCHEMA, EpochEnded, Observer, PulseReported, RunEvent, RunStopped, from_json, now
from ffdist.folders import remedy_of, system_reason
from ffdist.json_lines import JsonLines, read_json_lines
from ffdist.pipeline.sink import counted_from_one
from ffdist.regular import append_to

RUN_LOG = "metrics.jsonl"
PULSES = "pulses.jsonl"
"""Beside it, the reports within epochs: `PulseReported`, an event a line."""


def run_log(run: Path | None, observer: Observer) -> Callable[[RunEvent], object]:
    """`observer`, and before it the run log: one JSON object an epoch, then one of the test; and the pulses between."""
    if run is None:
        return observer
    path = run / RUN_LOG

    def log(event: RunEvent) -> None:
        line = None
        if isinstance(event, PulseReported):
            with writing(run / PULSES), append_to(run / PULSES) as file:
                file.write(json.dumps(event.to_json()) + "\n")
        if isinstance(event, EpochEnded):
            line = line_of(event.record)
        if isinstance(event, RunStopped):
            line = line_of({"time": now(), "reason": event.reason, "test": event.test})
        if line is not None:
            with writing(path), append_to(path) as file:
                file.write(line)
        observer(event)

    return log


def line_of(record: dict[str, Any]) -> str:
    """A record as a line of the run log: JSON with the schema's number."""
    return json.dumps({"schema": SCHEMA} | record) + "\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises SnapshotError for the OSError of a log that cannot be written."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(
            "a log of the run cannot be written",
            where=path,
            got=system_reason(error, path),
            remedy=remedy_of(error, "make room there, or let this user write it") + "; the last snapshot is whole",
        ) from error


def read_run_log(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The epochs' records, whose "epoch" counts from 1, and {"test", "reason"} where the run has come to its end.

    A last line that a crash has cut off is left out. Raises DataError for a log that cannot be read otherwise.
    """
    path = run / RUN_LOG
    try:
        values = read_json_lines(path)
    except OSError as error:
        raise DataError("a run log cannot be read", where=path, got=error) from error
    except (ValueError, RecursionError) as error:
        raise not_as_written_error(run, error) from error
    with as_written(run):
        end = next(({"test": v["test"], "reason": str(v["reason"])} for v in values if "reason" in v), None)
        return counted_from_one([v for v in values if "epoch" in v]), end


def read_pulses(run: Path) -> list[dict[str, Any]]:
    """`PulseReported` events in their JSON form, oldest first. What cannot be read of them is left out: nothing else
    needs it."""
    with suppress(OSError):
        return [pulse.to_json() for value in JsonLines(run / PULSES).read() if (pulse := pulse_of(value))]
    return []


def pulse_of(value: Any) -> PulseReported | None:
    """A pulse from its JSON form; None for what is none."""
    with suppress(FfdistError, AttributeError):
        event = from_json(value)
        return event if isinstance(event, PulseReported) and is_whole(event) else None
    return None


def is_whole(pulse: PulseReported) -> bool:
    """True if a pulse has the fields that reports and pages draw."""
    try:
        named = all("stage" in stage and all("block" in block for block in stage["blocks"]) for stage in pulse.stages)
    except (KeyError, TypeError):
        return False
    return named and isinstance(pulse.step, int) and isinstance(pulse.epoch, int)


@contextmanager
def as_written(run: Path) -> Iterator[None]:
    """Raises DataError where what is made of a run log shows that it is not as a run has written it."""
    try:
        yield
    except FfdistError:  # of something else, though some are ValueErrors
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise not_as_written_error(run, described(error)) from error


def not_as_written_error(run: Path, got: object) -> DataError:
    """The error for a run log that no run of ffdist writes so."""
    return DataError(
        "a run log is not as it was written",
        where=run / RUN_LOG,
        got=got,
        expected="an epoch a line, and the test",
        remedy="restore it; what the last snapshot has learned is measured without it by `ffdist eval RUN`",
    )


def stack_of(error: BaseException) -> str:
    """The traceback of a stage's error: it shows what the stage was waiting for."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()


class StageLog:
    """`stage-<index>.log` in the run folder, or `stage-<index>-worker-<number>.log` of one of several workers: when,
    and what; nothing where there is no run folder.
    """

    def __init__(self, run: Path | None, stage: int, worker: int | None = None) -> None:
        suffix = "" if worker is None else f"-worker-{worker}"
        self.path = (run or Path()) / f"stage-{stage}{suffix}.log"
        self.file = None
        if run is not None:
            with writing(self.path):
                self.file = append_to(self.path)

    def __enter__(self) -> StageLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.write("stopped" if error is None else f"failed: {error}\n{stack_of(error)}")
        except SnapshotError:  # of two errors the one that ended the stage counts
            if error is None:
                raise
        finally:
            if self.file:
                with suppress(OSError):
                    self.file.close()

    def write(self, text: str) -> None:
        """Write a line with the time. Raises SnapshotError where the log cannot be written."""
        if self.file:
            with writing(self.path):
                self.file.write(f"{datetime.now().isoformat(timespec='milliseconds')} {text}\n")

    def epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Write an epoch's times in seconds. epoch: counted from 0."""
        names = ("seconds", "busy", "no_data", "no_credit", "exchange", "no_gradients")
        times = ", ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)
        if "hidden" in metrics:
            times += f", hidden {metrics['hidden']:.0%}"
        self.write(
            f"epoch {epoch + 1}: {times}, queued {metrics['queued']:.2f}, peak {metrics['peak_bytes'] / 2**20:.0f} MiB"
        )
