"""Parts of a prepared folder's files, read when they are needed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ffdist.data.manifest import ShardFile
from ffdist.data.watch import Watch
from ffdist.errors import DataError


class Part(NamedTuple):
    """Bytes of a file in the folder."""

    file: str
    start: int
    length: int


class Parts(ABC):
    """The files of one split, which must stay as they were opened."""

    @abstractmethod
    def whole(self, file: str) -> bytes:
        """All of a file. Raises DataError where it is gone or has changed."""

    @abstractmethod
    def read(self, parts: Sequence[Part]) -> list[bytes]:
        """The parts in their order. Raises DataError for a file that is gone or has changed."""


class LocalParts(Parts):
    """By positioned reads and not by a memory map: a file that is cut off meanwhile is an error, and no signal that
    ends the process. Raises DataError for files that are missing, or of another size."""

    def __init__(self, folder: Path, files: Sequence[ShardFile]) -> None:
        self.watched = {file.file: Watch(folder / file.file, file) for file in files}

    def whole(self, file: str) -> bytes:
        return self.read([Part(file, 0, self.watched[file].shard.bytes)])[0]

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        return [self.part(self.watched[part.file], part) for part in parts]

    def part(self, watch: Watch, part: Part) -> bytes:
        try:
            descriptor = os.open(watch.path, os.O_RDONLY)
            try:
                data = os.pread(descriptor, part.length, part.start)
                status = os.fstat(descriptor)  # behind the read: what was read is what was opened
            finally:
                os.close(descriptor)
        except OSError as error:
            raise watch.lost(error) from error
        watch.compare(status)
        if len(data) < part.length:
            raise DataError("a shard is shorter than its index says", where=watch.path,
                            expected=f"{part.length} bytes at {part.start}", got=len(data))  # fmt: skip
        return data


def opened_parts(folder: Path | str, files: Sequence[ShardFile]) -> Parts:
    """Those of a folder here. Raises DataError for files that are missing, or of another size."""
    return LocalParts(Path(folder), files)
