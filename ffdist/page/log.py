"""A run's log that may still grow: what is new is read, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffdist.json_lines import JsonLines
from ffdist.pipeline.sink import counted_from_one
from ffdist.report.log import PULSES, RUN_LOG, pulse_of


class GrowingLog:
    """The records and the end of a run log, and the pulses within epochs, as far as they are written.

    A line that is none of these is counted in `strange`.
    """

    def __init__(self, run: Path) -> None:
        self.lines = JsonLines(run / RUN_LOG)
        self.pulse_lines = JsonLines(run / PULSES)
        self.records: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.pulses: list[dict[str, Any]] = []
        self.strange = 0
        """Lines that are not as a run writes them."""

    def read(self) -> None:
        """Raises OSError where a file cannot be read; one that is not there is an empty log."""
        for value in self.lines.read(self._forget):
            self._take(value)
        for value in self.pulse_lines.read(self.pulses.clear):
            if pulse := pulse_of(value):
                self.pulses.append(pulse.to_json())

    @property
    def written(self) -> float | None:
        """The time of the last write, in seconds since 1970; None for logs that are not there."""
        return max((t for t in (self.lines.written, self.pulse_lines.written) if t is not None), default=None)

    def _forget(self) -> None:
        self.records, self.end, self.strange = [], None, 0

    def _take(self, value: Any) -> None:
        if isinstance(value, dict) and is_record(value):
            self.records.append(value)
        elif isinstance(value, dict) and "reason" in value and isinstance(value.get("test"), (dict, type(None))):
            self.end = value
        else:
            self.strange += 1

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The epochs' records, whose "epoch" counts from 1."""
        return counted_from_one(self.records)


def is_record(value: dict[str, Any]) -> bool:
    """True if it has the parts that a page is drawn of."""
    train, stages = value.get("train"), value.get("stages")
    return (
        isinstance(value.get("epoch"), int)
        and isinstance(train, dict)
        and are_named(train.get("blocks"), "block")
        and are_named(stages, "stage")
        and (value.get("validation") is None or is_split(value["validation"]))
    )


def is_split(value: Any) -> bool:
    """True if a value is a split's metrics, as a page draws them."""
    return (
        isinstance(value, dict) and isinstance(value.get("accuracy"), dict) and are_named(value.get("blocks"), "block")
    )


def are_named(values: Any, key: str) -> bool:
    """True if a value is a list of objects that each have `key`."""
    return isinstance(values, list) and all(isinstance(each, dict) and key in each for each in values)
