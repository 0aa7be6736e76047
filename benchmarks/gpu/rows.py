"""A part's rows: each on disk as soon as it is measured, within a time, in a process that may die of the next."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAST_ROW = 75.0
"""Seconds that the row in hand may still take when the time is over; then its process is ended."""
WHOLE = "the part itself"


class OutOfTimeError(Exception):
    """No row may begin any more; says which would have been next."""


class Rows:
    """What a part has measured so far, in `file`; what is there, or has failed, is not measured again.

    settings: what the rows of one file have in common. deadline: by `time.monotonic`, behind which no row begins.
    recover: lets go of what a failed row held; raises where the device is lost with it.
    """

    def __init__(
        self, file: Path, settings: dict[str, Any], about: dict[str, Any], deadline: float, recover: Callable[[], None]
    ) -> None:
        self.file = file
        self.deadline = deadline
        self.recover = recover
        self.record = read(file)
        if self.record.setdefault("settings", settings) != settings:
            sys.exit(f"{file} has rows of {self.record['settings']}, these would be of {settings}: use another --out")
        self.record |= about

    def row(self, work: Callable[[], Any], *path: str) -> Any:
        """What `work` gives, or gave before; None where it has failed. Raises OutOfTimeError."""
        name, place = ", ".join(path), self.record["result"]
        for step in path[:-1]:
            place = place.setdefault(step, {})
        if path[-1] in place or name in self.record["failed"]:
            return place.get(path[-1])
        if self.late:
            raise OutOfTimeError(name)
        self.record["running"] = name
        self._write()
        begun = time.monotonic()
        try:
            place[path[-1]] = work()
        except Exception:
            self.record["failed"][name] = traceback.format_exc()[-4000:]
        seconds, failed = time.monotonic() - begun, name in self.record["failed"]
        self.record |= {"seconds": self.record["seconds"] + seconds, "running": name if failed else None}
        self._write()
        print(f"{self.file.stem}, {name}: {json.dumps(place.get(path[-1], 'FAILED'))}, {seconds:.0f} s", flush=True)
        if failed:
            print(self.record["failed"][name], file=sys.stderr, flush=True)
            self.recover()  # outside of `except`, which holds the failed work's tensors
            self.record["running"] = None
        return place.get(path[-1])

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def fill(self, part: Callable[[Rows], None]) -> None:
        """Let the part measure its rows, as far as the time goes."""
        self.record["left_out"] = None
        try:
            part(self)
        except OutOfTimeError as first:
            self.record["left_out"] = f"{first}, and what comes behind it"
        except Exception:
            self.record["failed"].setdefault(self.record["running"] or WHOLE, traceback.format_exc()[-4000:])
            self._write()
            raise
        self.record["done"] = not self.record["failed"] and self.record["left_out"] is None
        self._write()

    def _write(self) -> None:
        write(self.file, self.record)


def read(file: Path) -> dict[str, Any]:
    """The record in a file, or one of nothing yet."""
    empty = {
        "part": file.stem,
        "done": False,
        "failed": {},
        "left_out": None,
        "running": None,
        "seconds": 0.0,
        "result": {},
    }
    return empty | json.loads(file.read_text()) if file.exists() else empty


def write(file: Path, record: dict[str, Any]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.rename(file)


def complete(file: Path, life: Callable[[Path, float], None], deadline: float) -> dict[str, Any]:
    """Run `life(file, deadline)`, which fills the file's rows, in a process of its own; return the record.

    What has failed or was left out before is tried again. A row that kills the process has failed, and another process
    goes on with the next. All ends `LAST_ROW` seconds behind the deadline, at the latest.
    """
    record = read(file)
    if record["done"]:
        return record
    write(file, record | {"failed": {}, "left_out": None, "running": None})
    while (left := deadline - time.monotonic()) > 0:
        process = multiprocessing.get_context("spawn").Process(target=_bounded, args=(life, file, deadline))
        process.start()
        process.join(left + LAST_ROW + 5)
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


def _bounded(life: Callable[[Path, float], None], file: Path, deadline: float) -> None:
    """A process that hangs says where, and ends."""
    faulthandler.dump_traceback_later(max(1.0, deadline + LAST_ROW - time.monotonic()), exit=True)
    life(file, deadline)
