"""Shards must stay as they were opened: one that changes while it is read is told, and nothing is learned from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ffdist import digests
from ffdist.data.manifest import ShardFile
from ffdist.errors import DataError
from ffdist.regular import open_regular

AGAIN = "prepare the data set again"


class Stamp(NamedTuple):
    """The facts of a file that change when it is written or replaced."""

    size: int
    modified: int
    """In nanoseconds."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class FileWatch:
    """One shard: as it was when it was opened, as far as its size and times tell.

    Raises DataError where it is missing, or of another size than the manifest says.
    """

    def __init__(self, path: Path, shard: ShardFile) -> None:
        self.path = path
        self.shard = shard
        try:
            self.stamp = Stamp.of(path.stat())
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise DataError(
                "a shard is missing" if missing else "a shard cannot be read",
                where=path,
                expected=f"{shard.bytes} bytes",
                got="no such file" if missing else error.strerror or error,
                remedy=AGAIN if missing else "make it readable for this user",
            ) from error
        if not path.is_file():
            raise DataError("a shard is no file", where=path, expected=f"{shard.bytes} bytes", remedy=AGAIN)
        if self.stamp.size != shard.bytes:
            raise DataError(
                "a shard has another size",
                where=path,
                expected=f"{shard.bytes} bytes",
                got=f"{self.stamp.size} bytes",
                remedy=AGAIN,
            )

    def check(self, where: object = None) -> None:
        """where: what was read. Raises DataError where the shard is gone, or holds other bytes than the manifest
        says."""
        try:
            self.compare(os.stat(self.path), where)
        except OSError as error:
            raise self.lost(error) from error

    def compare(self, status: os.stat_result, where: object = None, *, truncated: bool = False) -> None:
        """status: of the shard now. Its digest decides where it was only touched, or copied. where: what was read.
        truncated: whether that was not there as a whole. Raises DataError."""
        found = Stamp.of(status)
        if found == self.stamp and not truncated:
            return
        try:
            with open_regular(self.path) as file:
                same = found.size == self.shard.bytes and digests.sha256(file) == self.shard.sha256
        except OSError as error:
            raise self.lost(error) from error
        if not same or truncated:
            raise DataError(
                "a shard changed while it was read",
                where=where or self.path,
                expected=f"{self.shard.bytes} bytes, sha256 {self.shard.sha256[:12]}...",
                got=f"{found.size} bytes, written since" + " with other content" * (found.size == self.shard.bytes),
                remedy="restore it, or prepare the data set again; then go on from the last snapshot",
            )
        self.stamp = found

    def lost(self, error: OSError) -> DataError:
        """For a shard that could be opened, and no longer can be."""
        return DataError(
            "a shard cannot be read any more",
            where=self.path,
            expected=f"{self.shard.bytes} bytes, as when it was opened",
            got=error.strerror or error,
            remedy="restore it; then go on from the last snapshot",
        )
