"""A run log that may still grow: what is new is read, and only that."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ffdist.pipeline.sink import counted_from_one
from ffdist.report.log import RUN_LOG

LONGEST = 64 * 2**20
"""Bytes that are read at once."""


class GrowingLog:
    """The records of a run log and its end, read on from where the last reading came to.

    A last line that is not whole yet is left for the next reading, and one that is no JSON object is counted; a log
    that has become shorter, or is another file, is read anew.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / RUN_LOG
        self.file: tuple[int, int] | None = None
        self.at = 0
        self.records: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.strange = 0
        """Lines that are not as a run writes them."""
        self.written: float | None = None
        """When, by the clock of the file system."""

    def read(self) -> None:
        """Raises OSError where the file cannot be read; one that is not there is an empty log."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError(f"{self.path} is no file")
            file = self.path.open("rb")
        except FileNotFoundError:
            self._forget()
            return
        with file:
            found = os.fstat(file.fileno())
            if self.file != (found.st_dev, found.st_ino) or found.st_size < self.at:
                self._forget()
                self.file = (found.st_dev, found.st_ino)
            self.written = found.st_mtime
            file.seek(self.at)
            while chunk := file.read(LONGEST):
                whole = chunk.rfind(b"\n") + 1
                for line in chunk[:whole].splitlines():
                    self._take(line)
                self.at += whole
                if len(chunk) < LONGEST or not whole:
                    return
                file.seek(self.at)

    def _forget(self) -> None:
        self.file, self.at, self.records, self.end, self.strange, self.written = None, 0, [], None, 0, None

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and is_record(value):
            self.records.append(value)
        elif isinstance(value, dict) and "reason" in value and isinstance(value.get("test"), (dict, type(None))):
            self.end = value
        else:
            self.strange += 1

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Counted from 1."""
        return counted_from_one(self.records)


def is_record(value: dict[str, Any]) -> bool:
    """Whether it has the parts that a page is drawn of."""
    train, stages = value.get("train"), value.get("stages")
    return (
        isinstance(value.get("epoch"), int)
        and isinstance(train, dict)
        and are_named(train.get("blocks"), "block")
        and are_named(stages, "stage")
        and (value.get("validation") is None or is_split(value["validation"]))
    )


def is_split(value: Any) -> bool:
    return (
        isinstance(value, dict) and isinstance(value.get("accuracy"), dict) and are_named(value.get("blocks"), "block")
    )


def are_named(values: Any, key: str) -> bool:
    return isinstance(values, list) and all(isinstance(each, dict) and key in each for each in values)
