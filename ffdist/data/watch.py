"""Shards must be as their manifest says when they are opened, and stay so.

One that was written after the manifest is read whole first and held against its digest; one that changes while it is
read is an error. Nothing is learned from either.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ffdist import digests
from ffdist.data.manifest import AGAIN, MANIFEST, ShardFile
from ffdist.errors import DataError
from ffdist.notes import note
from ffdist.regular import open_regular

LARGE = 1 << 30
"""Bytes of shards whose reading at the opening is worth a note."""

bytes_read: Counter[Path] = Counter()
"""What this process has held against digests, by manifest: large sets are noted once."""


class Stamp(NamedTuple):
    """The facts of a file that change when it is written or replaced."""

    size: int
    modified: int
    """Time of the last write, in nanoseconds since 1970."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class FileWatch:
    """One shard: as it was when it was opened, as far as its size and times tell.

    Raises DataError where it is missing, of another size than the manifest says, or was written after the manifest and
    holds other bytes.
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
        if is_newer(path, manifest := manifest_of(path, shard)):
            self.verify(manifest)

    def verify(self, manifest: Path) -> None:
        """Holds all bytes against their digest. Raises DataError for others."""
        bytes_read[manifest] += self.shard.bytes
        if bytes_read[manifest] >= LARGE > bytes_read[manifest] - self.shard.bytes:
            note(
                f"shards are newer than {manifest}, as after a copy: each is read whole first and held against its "
                f"sha256 (`touch {manifest}` after `ffdist data check` spares that)"
            )
        if (found := self.digest()) != self.shard.sha256:
            raise DataError(
                "a shard holds other bytes than its manifest says",
                where=self.path,
                expected=f"sha256 {self.shard.sha256[:12]}...",
                got=f"sha256 {found[:12]}..., written after {manifest.name}",
                remedy=f"restore it, or {AGAIN}",
            )

    def digest(self) -> str:
        """sha256 of all bytes as they are now. Raises DataError where they cannot be read."""
        try:
            with open_regular(self.path) as file:
                return digests.sha256(file)
        except OSError as error:
            raise self.lost_error(error) from error

    def check(self, where: object = None) -> None:
        """where: what was read. Raises DataError where the shard is gone, or holds other bytes than the manifest
        says."""
        try:
            self.compare(os.stat(self.path), where)
        except OSError as error:
            raise self.lost_error(error) from error

    def compare(self, status: os.stat_result, where: object = None, *, truncated: bool = False) -> None:
        """status: of the shard now. Its digest decides where it was only touched, or copied. where: what was read.
        truncated: whether that was not there as a whole. Raises DataError."""
        found = Stamp.of(status)
        if found == self.stamp and not truncated:
            return
        same = found.size == self.shard.bytes and self.digest() == self.shard.sha256
        if not same or truncated:
            raise DataError(
                "a shard changed while it was read",
                where=where or self.path,
                expected=f"{self.shard.bytes} bytes, sha256 {self.shard.sha256[:12]}...",
                got=f"{found.size} bytes, written since" + " with other content" * (found.size == self.shard.bytes),
                remedy=f"restore it, or {AGAIN}; then go on from the last snapshot",
            )
        self.stamp = found

    def lost_error(self, error: OSError) -> DataError:
        """The error for a shard that could be opened, and no longer can be read."""
        return DataError(
            "a shard cannot be read any more",
            where=self.path,
            expected=f"{self.shard.bytes} bytes, as when it was opened",
            got=error.strerror or error,
            remedy="restore it; then go on from the last snapshot",
        )


def manifest_of(path: Path, shard: ShardFile) -> Path:
    """The manifest that lists a shard."""
    return path.parents[len(Path(shard.file).parts) - 1] / MANIFEST


def is_newer(path: Path, manifest: Path) -> bool:
    """True if a shard, or what is known of it, may have been written after the manifest, the last file of a data set.

    Both times count: a program can set that of the content, and not the other. Equal times are too coarse to tell.
    """
    try:
        shard, listed = path.stat(), manifest.stat()
    except OSError:
        return False  # no manifest yet; reading a shard that is gone raises the error
    return shard.st_mtime_ns >= listed.st_mtime_ns or shard.st_ctime_ns >= listed.st_ctime_ns
