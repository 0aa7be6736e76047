"""Changes in the files of a source: found quickly by what the file system says of them, or surely by their bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ffdist import digests
from ffdist.cores import available_cores
from ffdist.data.ahead import in_order
from ffdist.data.sources.listing import is_junk
from ffdist.errors import DataError

SETTLED = 2 * 10**9
"""Nanoseconds after which a file that changes again gets another time, on any file system."""


@dataclass(frozen=True)
class FileStates:
    """The file system's facts on all files of a source at one moment."""

    digest: str
    """A digest of names, sizes, inodes and times; a change of bytes changes the ctime, which programs cannot set."""
    settled: bool
    """Whether all times are long enough ago that a change from now on must show."""
    files: int
    bytes: int


def file_states(source: Path, elsewhere: Iterable[Path] = ()) -> FileStates:
    """elsewhere: files that lie elsewhere, and belong to it."""
    now, newest, size, count = time.time_ns(), 0, 0, 0
    seen = hashlib.blake2b(digest_size=16)
    for path in (*walk_files(source), *elsewhere):
        count += 1
        try:
            found = os.stat(path)
        except OSError as error:
            seen.update(f"{os.fspath(path)!r} {error.errno}\n".encode())
            continue
        # the time of the last change of anything, which copying tools cannot set back as they do the other
        state = (os.fspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        seen.update(f"{state!r}\n".encode())
        newest, size = max(newest, found.st_ctime_ns), size + found.st_size
    return FileStates(seen.hexdigest(), newest + SETTLED < now, count, size)


class ChangeCheck:
    """Notes the states of files, so that a change while they are read is found."""

    def __init__(self) -> None:
        self.states: list[tuple[Sequence[Path], str]] = []

    def add(self, *paths: Path) -> None:
        """Note the state of files, or of all files in folders, as it is now."""
        if paths:
            self.states.append((paths, file_states(paths[0], paths[1:]).digest))

    def check(self) -> None:
        """Raises DataError where one has changed since, or another has come."""
        for paths, digest in self.states:
            if file_states(paths[0], paths[1:]).digest != digest:
                raise changed_error(paths[0])


def changed_error(source: Path) -> DataError:
    """The error for a source that changed while it was read."""
    return DataError(
        "the source changed while it was read",
        where=source,
        expected="files that stay as they are",
        remedy="start again when it is complete",
    )


def content(source: Path, elsewhere: Iterable[Path] = ()) -> str:
    """Digest of the names below the source, and of every byte."""
    seen = hashlib.blake2b(digest_size=16)
    paths, threads = (*walk_files(source), *elsewhere), available_cores()
    with closing(in_order(digest_of, iter(paths), threads=threads, ahead=4 * threads, name="ffdist-digest")) as found:
        for path, digest in zip(paths, found, strict=True):
            # a file by itself may have been renamed or moved, and what it names with it
            name = os.path.relpath(path, source) if path.is_relative_to(source) else ""
            seen.update(f"{name!r} {digest}\n".encode())
    return seen.hexdigest()


def walk_files(source: Path) -> Iterator[Path]:
    """Every file at any depth, links followed, in a fixed order; without what systems leave."""
    if source.is_dir():
        yield from walk_folder(source, frozenset([identity(source)]))
    else:
        yield source


def walk_folder(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files below a folder. One that cannot be read counts as a file: preparing it raises the error that says why."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not is_junk(entry.name)), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in found:
        path = Path(entry.path)
        if not path.is_dir():
            yield path
        elif (place := identity(path)) not in above:  # else a link back to a folder that it lies in
            yield from walk_folder(path, above | {place})


def identity(folder: Path) -> tuple[int, int]:
    """(device, inode) of a folder: the same for every path that leads to it."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def digest_of(path: Path) -> str:
    """The digest of a file's bytes; for one that cannot be read (a dangling link, a pipe, no permission) the reason."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "no file"
        with path.open("rb") as file:
            return digests.sha256(file)
    except OSError as error:
        return f"errno {error.errno}"
