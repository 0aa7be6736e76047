"""Parts of a prepared folder's files, here or remote, read when they are needed."""

from __future__ import annotations

import io
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ffdist import digests
from ffdist.data.manifest import AGAIN, ShardFile
from ffdist.data.watch import FileWatch
from ffdist.errors import DataError
from ffdist.remote import RemoteFolder

CHECK_SECONDS = 10.0
"""Seconds between two checks that remote files are as they were opened: each is a request."""


class ByteRange(NamedTuple):
    """A range of bytes of a file in the folder."""

    file: str
    start: int
    length: int
    where: object = None
    """What an error names, where it is not the file alone."""


class FileParts(ABC):
    """The files of one split, which must stay as they were opened."""

    @abstractmethod
    def whole(self, file: str) -> bytes:
        """All of a file. Raises DataError where it is gone or has changed."""

    @abstractmethod
    def read(self, parts: Sequence[ByteRange]) -> list[bytes]:
        """The parts in their order. Raises DataError for a file that is gone or has changed."""


class LocalParts(FileParts):
    """Files read by positioned reads and not by a memory map: a file that is cut off meanwhile is an error, and no
    signal that ends the process. Raises DataError for files that are missing, or of another size."""

    def __init__(self, folder: Path, files: Sequence[ShardFile]) -> None:
        self.watched = {file.file: FileWatch(folder / file.file, file) for file in files}

    def whole(self, file: str) -> bytes:
        return self.read([ByteRange(file, 0, self.watched[file].shard.bytes)])[0]

    def read(self, parts: Sequence[ByteRange]) -> list[bytes]:
        found: dict[int, bytes] = {}
        places: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            places.setdefault(part.file, []).append(place)
        for file, own in places.items():
            found.update(zip(own, self.read_file(self.watched[file], [parts[place] for place in own]), strict=True))
        return [found[place] for place in range(len(parts))]

    def read_file(self, watch: FileWatch, parts: Sequence[ByteRange]) -> list[bytes]:
        """Parts of one file, in their order. Raises DataError where it is gone, cut off or has changed."""
        try:
            descriptor = os.open(watch.path, os.O_RDONLY)
            try:
                data = [os.pread(descriptor, part.length, part.start) for part in parts]
                status = os.fstat(descriptor)  # after the reads: what was read is what was opened
            finally:
                os.close(descriptor)
        except OSError as error:
            raise watch.lost_error(error) from error
        cut = [part for part, read in zip(parts, data, strict=True) if len(read) < part.length]
        watch.compare(status, [*cut, *parts][0].where, truncated=bool(cut))
        return data


class RemoteParts(FileParts):
    """Files read by requests for ranges of bytes, those of a batch at once. Raises DataError for files that are
    missing, or of another size."""

    def __init__(self, folder: RemoteFolder, files: Sequence[ShardFile]) -> None:
        self.folder = folder
        self.files = {file.file: file for file in files}
        with remote_errors(folder, "a remote folder cannot be looked into"):
            self.seen = folder.list_files()
        self.checked = time.monotonic()
        for file in files:
            if (found := self.seen.get(file.file)) is None or found.size != file.bytes:
                raise DataError(
                    "a shard is missing" if found is None else "a shard has another size",
                    where=folder / file.file,
                    expected=f"{file.bytes} bytes",
                    got="no such file" if found is None else f"{found.size} bytes",
                    remedy=AGAIN,
                )

    def whole(self, file: str) -> bytes:
        with remote_errors(self.folder / file, "a shard cannot be read any more"):
            data = self.folder.read(file)
        if digests.sha256(io.BytesIO(data)) != self.files[file].sha256:
            raise DataError(
                "a shard changed while it was read",
                where=self.folder / file,
                expected=f"{self.files[file].bytes} bytes, sha256 {self.files[file].sha256[:12]}...",
                got=f"{len(data)} bytes, with other content",
                remedy=AGAIN,
            )
        return data

    def read(self, parts: Sequence[ByteRange]) -> list[bytes]:
        with remote_errors(self.folder, "a shard cannot be read any more"):
            data = self.folder.ranges([part[:3] for part in parts])
        self.check()
        for part, found in zip(parts, data, strict=True):
            if len(found) != part.length:
                raise DataError(
                    "a shard changed while it was read",
                    where=part.where or self.folder / part.file,
                    expected=f"{part.length} bytes at {part.start}",
                    got=len(found),
                    remedy=AGAIN,
                )
        return data

    def check(self) -> None:
        """Raise a DataError unless all are as they were when opened: now and then, as each time is a request."""
        if time.monotonic() - self.checked < CHECK_SECONDS:
            return
        with remote_errors(self.folder, "a remote folder cannot be looked into"):
            now = self.folder.list_files()
        for name in self.files:
            if now.get(name) != self.seen[name]:
                raise DataError(
                    "a shard changed while it was read" if name in now else "a shard cannot be read any more",
                    where=self.folder / name,
                    expected=f"{self.seen[name].size} bytes, {self.seen[name].mark}",
                    got=f"{now[name].size} bytes, {now[name].mark}" if name in now else "no such file",
                    remedy="restore it; then go on from the last snapshot",
                )
        self.checked = time.monotonic()


@contextmanager
def remote_errors(where: RemoteFolder, what: str) -> Iterator[None]:
    """Turns errors of a remote store inside the context into DataError, with `what` for its first line."""
    try:
        yield
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        remedy = (
            "look whether the address, the network and the credentials are right, then go on from the last snapshot"
        )
        raise DataError(what, where=where, got=got, remedy=remedy) from error


def opened_parts(folder: Path | RemoteFolder, files: Sequence[ShardFile]) -> FileParts:
    """The reader of a folder's files, here or remote. Raises DataError for missing files and those of another size."""
    return RemoteParts(folder, files) if isinstance(folder, RemoteFolder) else LocalParts(folder, files)
