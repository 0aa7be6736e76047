"""Files of a JSON value a line, which a run may still write to; one that was killed has left the last line in part."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

AT_ONCE = 64 * 2**20
"""Bytes that are read at once."""
BLOCK = 1 << 16
"""Bytes that are read at once in search of the last line's beginning."""


class JsonLines:
    """Reads on from where the last reading came to.

    A last line that is not whole yet is left for the next reading; a file that has become shorter, or is another one,
    is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: tuple[int, int] | None = None
        self.at = 0
        self.written: float | None = None
        """When, by the clock of the file system; None where there is no file."""

    def read(self, begin: Callable[[], object] = lambda: None) -> Iterator[Any]:
        """The values that are new. begin: called before, where it is read from its beginning, or is not there.

        A line that is no JSON gives the error, a ValueError or RecursionError. Raises OSError where there is a file
        that cannot be read.
        """
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError(f"{self.path} is no file")
            file = self.path.open("rb")
        except FileNotFoundError:
            self.file, self.at, self.written = None, 0, None
            begin()
            return
        with file:
            found = os.fstat(file.fileno())
            if self.file != (found.st_dev, found.st_ino) or found.st_size < self.at:
                self.file, self.at = (found.st_dev, found.st_ino), 0
                begin()
            self.written = found.st_mtime
            while whole := self._whole_lines(file):
                for line in whole.splitlines():
                    if line.strip():
                        yield parsed(line)
                self.at += len(whole)

    def _whole_lines(self, file: Any) -> bytes:
        """The next of them, as many as are read at once; one that is longer is taken as a whole, too."""
        file.seek(self.at)
        read = b""
        while chunk := file.read(AT_ONCE):
            read += chunk
            if end := read.rfind(b"\n") + 1:
                return read[:end]
        return b""


def parsed(line: bytes) -> Any:
    """The value of a line; of one that is no JSON the error itself, so that who reads on can count it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def read_json_lines(path: Path) -> list[Any]:
    """All values of a file; none where there is no file. Raises OSError, and ValueError or RecursionError for a whole
    line that is no JSON."""
    values = list(JsonLines(path).read())
    for value in values:
        if isinstance(value, (ValueError, RecursionError)):
            raise value
    return values


def remove_cut_off(path: Path) -> bool:
    """End the last line, so that a next one is not joined to it; one that is there in part is removed. Returns whether
    one was. Raises OSError."""
    if not path.exists():
        return False
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        rest = b""
        while end and b"\n" not in rest:
            begin = max(0, end - BLOCK)
            file.seek(begin)
            rest, end = file.read(end - begin) + rest, begin
        rest = rest[rest.rfind(b"\n") + 1 :]
        cut_off = isinstance(parsed(rest), Exception)
        if rest and cut_off:
            file.truncate(file.seek(-len(rest), os.SEEK_END))
        elif rest:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        return bool(rest) and cut_off
