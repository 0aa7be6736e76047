"""Runs at an address (s3://, gs://, ...): worked on in a folder of this machine, its mirror, and put there at every
commit.

A snapshot's files are put first, each whole or not at all, and the manifest last, by one request: as with the rename on
a disk, what is there when a run or the network fails is the last committed snapshot, whole. An address has no lock. So
who begins or goes on there leaves a mark, and a run that finds another's mark ends before it puts anything more: of two
runs at one address, the later one stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ffdist.data.places import cache_folder
from ffdist.errors import ConfigError, SnapshotError, setting
from ffdist.notes import note
from ffdist.remote import RemoteFolder
from ffdist.scratch import write_whole

MIRRORS = "remote-runs"
"""The folder in the cache."""
MANIFEST = "manifest.json"
SNAPSHOTS = "snapshots"
HOLDER = "holder.json"
"""At the address: who writes there."""


def address_of(run: Path) -> RemoteFolder | None:
    """The address that a folder mirrors; None for one of its own."""
    return RemoteFolder(unquote(run.name)) if run.parent.name == MIRRORS else None


def as_user_named(run: Path) -> Path | str:
    """A run as its user named it."""
    remote = address_of(run)
    return run if remote is None else remote.url


def mirror_of(place: Path | str) -> Path:
    """The folder where a run at an address is worked on; a folder of this machine is that itself.

    Raises ConfigError for an address that cannot be opened, or is too long for a file's name.
    """
    if (remote := RemoteFolder.of(place)) is None:
        return Path(os.path.expanduser(place))
    name = quote(remote.check().url, safe="")
    if len(name) > 255:
        raise ConfigError("the address is too long", where=remote, expected="up to 255 letters", got=len(name))
    return cache_folder() / MIRRORS / name


def pulled(place: Path | str) -> Path:
    """`mirror_of`, with what is there: the run's own files, and its committed snapshots.

    Raises SnapshotError where the address cannot be read.
    """
    run = mirror_of(place)
    remote = address_of(run)
    if remote is None:
        return run
    with store_errors(remote):
        for name in remote.list_files():
            fetch(remote, name, run / name)
        for folder in [name for name in remote.folders() if name != SNAPSHOTS]:
            for name in (remote / folder).list_files():
                fetch(remote / folder, name, run / folder / name)
        there = committed_at(remote)
        for folder in there:
            pull_snapshot(remote, run, folder)
    for mine in (run / SNAPSHOTS).glob("step-*"):
        if mine.name not in there:  # of another run that was there before
            (mine / MANIFEST).unlink(missing_ok=True)
    return run


def pull_snapshot(remote: RemoteFolder, run: Path, folder: str) -> None:
    """One of its committed snapshots: the manifest last, so that a mirror without all files has no snapshot."""
    there, here = remote / SNAPSHOTS / folder, run / SNAPSHOTS / folder
    text = there.read(MANIFEST)
    if (here / MANIFEST).exists() and (here / MANIFEST).read_bytes() == text:
        return
    for name in there.list_files():
        if name != MANIFEST:
            fetch(there, name, here / name)
    save(here / MANIFEST, text)


def committed_at(remote: RemoteFolder) -> list[str]:
    """The names of the committed snapshots at an address, oldest first."""
    folders = [name for name in (remote / SNAPSHOTS).folders() if name.startswith("step-")]
    return [name for name in folders if MANIFEST in (remote / SNAPSHOTS / name).list_files()]


def fetch(folder: RemoteFolder, name: str, to: Path) -> None:
    """Download a file, whole or not at all. Raises OSError."""
    save(to, folder.read(name))


def save(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, as others may mirror this address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


@contextmanager
def store_errors(remote: RemoteFolder) -> Iterator[None]:
    """Raises SnapshotError for what a store refuses, or does not have."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(
            "an address cannot be read or written",
            where=remote,
            got=error.strerror or error,
            remedy=f"when it can be again, go on with {setting('resume', remote)}: the last snapshot there is whole",
        ) from error


def check_free_at(run: Path) -> None:
    """Raises ConfigError for an address with a run that has made a snapshot."""
    remote = address_of(run)
    if remote is None:
        return
    with store_errors(remote):
        if committed_at(remote):
            raise ConfigError(
                "the run folder already holds a run",
                where=remote,
                expected="an address without a run",
                remedy=f"choose another {setting('run.out')}, or go on with {setting('resume', remote)}",
            )


@contextmanager
def lock_address(run: Path) -> Iterator[None]:
    """Hold the address with a mark of this run's, if it has one; its own files are put there at the end, too."""
    remote = address_of(run)
    if remote is None:
        yield
        return
    mark = {"token": uuid.uuid4().hex, "host": platform.node(), "process": os.getpid()}
    with store_errors(remote):
        remote.write(HOLDER, json.dumps(mark).encode())
    note(f"{remote} has no lock: who trains there later takes it over; worked on in {run}")
    try:
        yield
    finally:
        if mark["token"] == token_at(remote):
            push_own_files(run)


def token_at(remote: RemoteFolder) -> str | None:
    """The token of who marked the address last; None where nobody did, or nobody can be asked."""
    try:
        return json.loads(remote.read(HOLDER))["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def push_own_files(run: Path) -> None:
    """Upload what a run's folder holds beside its snapshots: settings, logs, the user's own code. Raises
    SnapshotError."""
    remote = address_of(run)
    if remote is None:
        return
    with store_errors(remote):
        for path in run.rglob("*"):
            inside = path.relative_to(run)
            hidden = any(part.startswith(".") for part in inside.parts)
            if path.is_file() and not hidden and inside.parts[0] not in (SNAPSHOTS, HOLDER):
                remote.put(inside.as_posix(), path)


def forget_own_files(run: Path) -> None:
    """Remove the files of a run that was refused before it had a snapshot. Raises SnapshotError."""
    remote = address_of(run)
    if remote is None:
        return
    with store_errors(remote):
        if not committed_at(remote):
            remote.remove_all()


class Mirrored:
    """The snapshots of one run, as they are put at its address; nothing where it has none."""

    def __init__(self, run: Path | None) -> None:
        self.remote = address_of(run) if run else None
        self.run = run
        self.token = token_at(self.remote) if self.remote else None

    def check(self) -> None:
        """Raises SnapshotError where another run has taken the address."""
        assert self.remote
        if (found := token_at(self.remote)) != self.token:
            raise SnapshotError(
                "another run has taken the address",
                where=self.remote,
                expected=f"the mark of this run, {self.token}",
                got=found or "none",
                remedy=f"let one run alone write there; choose another {setting('run.out')} for the other",
            )

    def put(self, path: Path) -> None:
        """Upload a file of a snapshot; it is there when this returns. Raises SnapshotError, also where another run has
        taken the address."""
        if self.remote is None or self.run is None:
            return
        with store_errors(self.remote):
            self.check()
            self.remote.put(path.relative_to(self.run).as_posix(), path)

    def commit(self, folder: Path, kept: list[Path]) -> None:
        """Put the manifest, the last of a snapshot's files; then only the snapshots that are kept here stay there."""
        if self.remote is None or self.run is None:
            return
        push_own_files(self.run)
        self.put(folder / MANIFEST)
        names = {path.name for path in kept}
        with store_errors(self.remote):
            for name in committed_at(self.remote):
                if name < folder.name and name not in names:
                    self.discard(name)

    def discard(self, name: str) -> None:
        """Manifest first, so that what is half deleted is no snapshot."""
        assert self.remote
        old = self.remote / SNAPSHOTS / name
        old.remove(MANIFEST)
        old.remove_all()

    def fetch(self, path: Path, entry: dict[str, Any]) -> None:
        """Download a file of a snapshot that another host has written, where it is not here. Raises SnapshotError."""
        if self.remote is None or self.run is None or path.exists():
            return
        with store_errors(self.remote):
            data = self.remote.read(path.relative_to(self.run).as_posix())
        if hashlib.sha256(data).hexdigest() == entry["sha256"]:  # otherwise it is reported as missing
            save(path, data)


def fetch_file(path: Path) -> None:
    """Download a file of a snapshot at an address, where it is not here. Raises SnapshotError."""
    folder = path.parent
    remote = address_of(folder.parent.parent)
    if remote is not None and not path.exists():
        with store_errors(remote):
            save(path, (remote / SNAPSHOTS / folder.name).read(path.name))


def uncommit(folder: Path) -> None:
    """Remove the manifest of a snapshot that was set aside here from its address: there, too, it is none any more."""
    run = folder.parent.parent
    if remote := address_of(run):
        with store_errors(remote):
            (remote / SNAPSHOTS / folder.name).remove(MANIFEST)
