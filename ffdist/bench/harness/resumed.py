"""A record that grows: each line on disk as soon as it is measured, in a process that may die of the next."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffdist.bench.harness.record import Record, as_json, tidy
from ffdist.bench.harness.table import Line, ResultTable, lines_of
from ffdist.exiting import end_with_parent

LAST_LINE = 75.0
"""Seconds that running work may still take past the deadline; then its process is ended."""
WHOLE = "the part itself"
NOTHING = {"done": False, "failed": {}, "left_out": None, "running": None, "seconds": 0.0, "rows": []}


class OutOfTimeError(Exception):
    """The deadline has passed; its text names the work that was next."""


class Resumed:
    """A part's measurements so far, in `file`: those made, or failed, are not made again.

    facts: what else the record says; its settings are what the lines of one file have in common. deadline: by
    `time.monotonic`, after which nothing begins. recover: frees what failed work held; raises where the device is lost
    with it.
    """

    def __init__(
        self, file: Path, table: ResultTable, facts: Record, *, deadline: float, recover: Callable[[], None]
    ) -> None:
        self.file = file
        self.table = table
        self.deadline = deadline
        self.recover = recover
        self.record = read(file)
        settings = facts["settings"]
        if self.record.setdefault("settings", settings) != settings:
            sys.exit(f"{file} has rows of {self.record['settings']}, these would be of {settings}: use another --out")
        self.record = facts | self.record
        table.lines = lines_of(self.record["rows"], table.part)

    def measure(self, work: Callable[[], Sequence[dict[str, Any]]], **keys: str | int) -> list[Line] | None:
        """The lines of these keys: those measured before, or those that `work` gives now; None where it has failed.

        Raises OutOfTimeError after the deadline.
        """
        name = ", ".join(map(str, keys.values()))
        if (before := self.lines(**keys)) or name in self.record["failed"]:
            return before or None
        if self.late:
            raise OutOfTimeError(name)
        self.record["running"] = name
        self._write()
        begun = time.monotonic()
        try:
            for cells in work():
                self.table.add(**keys, **cells)
        except Exception:  # whatever it is, it is recorded, and the other measurements go on
            self.record["failed"][name] = traceback.format_exc()[-4000:]
        seconds, failed = time.monotonic() - begun, name in self.record["failed"]
        self.record |= {"seconds": self.record["seconds"] + seconds, "running": name if failed else None}
        self._write()
        found = self.lines(**keys)
        shown = [{metric: cell.value for metric, cell in line.items() if metric in self.table.units} for line in found]
        print(f"{self.file.stem}, {name}: {'FAILED' if failed else json.dumps(shown)}, {seconds:.0f} s", flush=True)
        if failed:
            print(self.record["failed"][name], file=sys.stderr, flush=True)
            self.recover()  # outside of `except`, which holds the failed work's tensors
            self.record["running"] = None
        return found or None

    def lines(self, **keys: str | int) -> list[Line]:
        """The lines whose keys have these values."""
        return [line for line in self.table.lines if all(line.get(name) == value for name, value in keys.items())]

    @property
    def late(self) -> bool:
        """True after the deadline."""
        return time.monotonic() > self.deadline

    def fill(self, part: Callable[[Resumed], object]) -> None:
        """Run the part, which measures its lines, until it ends or the deadline passes."""
        self.record["left_out"] = None
        try:
            part(self)
        except OutOfTimeError as first:
            self.record["left_out"] = f"{first}, and what comes after it"
        except Exception:  # recorded before this process ends by it, so that the next one goes on after it
            self.record["failed"].setdefault(self.record["running"] or WHOLE, traceback.format_exc()[-4000:])
            self._write()
            raise
        self.record["done"] = not self.record["failed"] and self.record["left_out"] is None
        self._write()

    def _write(self) -> None:
        self.record |= tidy([self.table])
        write(self.file, self.record)


def read(file: Path) -> Record:
    """The record in a file, or an empty one where there is no file."""
    return json.loads(json.dumps(NOTHING)) | (json.loads(file.read_text()) if file.exists() else {})


def write(file: Path, record: Record) -> None:
    """Replace the file at once: a process that is killed meanwhile leaves the old record."""
    partial = file.with_suffix(".partial")
    partial.write_text(as_json(record))
    partial.rename(file)


def complete(file: Path, main: Callable[[Path, float], None], deadline: float) -> Record:
    """Run `main(file, deadline)`, which fills the file, in a process of its own; return the record.

    What has failed or was left out before is tried again. Work that kills the process has failed, and another process
    goes on with the next. All ends `LAST_LINE` seconds after the deadline, at the latest.
    """
    record = read(file)
    if record["done"]:
        return record
    write(file, record | {"failed": {}, "left_out": None, "running": None})
    while (left := deadline - time.monotonic()) > 0:
        process = multiprocessing.get_context("spawn").Process(target=_bounded, args=(main, file, deadline))
        process.start()
        # a process that hangs ends itself `LAST_LINE` seconds after the deadline (`_bounded`); 5 s later it is killed
        process.join(left + LAST_LINE + 5)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == 0:
            return read(file)
        record = read(file)
        record["failed"].setdefault(record["running"] or WHOLE, f"its process ended with status {process.exitcode}")
        record["running"] = None
        write(file, record)
        if WHOLE in record["failed"]:
            return record
    record = read(file) | {"left_out": "what is not here: no time was left"}
    write(file, record)
    return record


def _bounded(main: Callable[[Path, float], None], file: Path, deadline: float) -> None:
    """A process that hangs says where, and ends; as it does with its parent."""
    end_with_parent(os.getppid())
    faulthandler.dump_traceback_later(max(1.0, deadline + LAST_LINE - time.monotonic()), exit=True)
    main(file, deadline)
