"""New folders that appear only when they are complete: all or nothing, whatever ends the process."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffdist.data.manifest import MANIFEST
from ffdist.data.parts import remote_errors
from ffdist.errors import DataError, setting
from ffdist.folders import command, remedy_of, remedy_unwritable, system_reason, why_unwritable
from ffdist.locks import lock
from ffdist.notes import listed
from ffdist.remote import RemoteFolder
from ffdist.scratch import remove_unheld

FULL = (errno.ENOSPC, errno.EDQUOT)
LEFT = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
"""How a folder is called until it is whole."""


def check_free(out: Path | RemoteFolder) -> None:
    """Raises DataError where something is there already."""
    if isinstance(out, RemoteFolder):
        check_free_remote(out)
        return
    if os.path.lexists(out):  # Path.exists raises where it cannot look
        again = (
            "" if not os.path.exists(out / MANIFEST) else f"take it as it is: {command('train', '--data', out)}; or "
        )
        raise DataError(
            "the folder exists, and nothing is overwritten",
            where=out,
            remedy=f"{again}remove it, or name another with {setting('out')}",
        )


def check_room(folder: Path, needed: int) -> None:
    """Raises DataError where the disk that the folder is on has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            "no room on the disk",
            where=folder.parent,
            expected=f"{needed / 2**20:.0f} MiB",
            got=f"{free / 2**20:.0f} MiB free",
            remedy=f"make room, or a smaller {setting('size')}",
        )


def check_free_remote(out: RemoteFolder) -> None:
    """Check that a remote folder is free; the shards of a killed upload, without a manifest, are no data set, and make
    room. Raises DataError."""
    with remote_errors(out, "a remote folder cannot be looked into"):
        strange = [name for name in out.list_files() if not name.endswith(".arrow")]
    if strange:
        raise DataError(
            "the folder exists, and nothing is overwritten",
            where=out,
            got=listed(strange),
            remedy=f"remove it, or name another with {setting('out')}",
        )


@contextmanager
def uploaded_folder(out: RemoteFolder) -> Iterator[Path]:
    """A new folder of this machine, whose files are put into `out` at the end, the manifest last: that makes it a data
    set. When anything goes wrong nothing stays. Raises DataError for what cannot be put."""
    put: list[str] = []
    with temporary_folder(out) as folder:
        yield folder
        try:
            with remote_errors(out, "the folder cannot be written"):
                check_free(out)
                for name in out.list_files():
                    out.remove(name)
                for path in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
                    put.append(path.name)
                    out.put(path.name, path)
                    path.unlink()
        except BaseException:  # an interrupt, too; raised again
            with suppress(OSError):
                for name in reversed(put):
                    out.remove(name)
            raise


@contextmanager
def atomic_folder(out: Path | RemoteFolder) -> Iterator[Path]:
    """A new folder beside `out`, which gets its name at the end, or is removed when anything goes wrong.

    What a killed process left of one is removed first. Raises DataError where it cannot be made or written.
    """
    if isinstance(out, RemoteFolder):
        with uploaded_folder(out) as folder:
            yield folder
        return
    with temporary_folder(out) as partial_folder:
        yield partial_folder
        check_free(out)  # another process may have made it meanwhile
        partial_folder.rename(out)


@contextmanager
def temporary_folder(out: Path | RemoteFolder) -> Iterator[Path]:
    """A new folder beside `out`, or among the temporary ones if that is remote; what is still there in the end is
    removed.

    What killed processes left of such is removed first. Raises DataError where it cannot be made or written.
    """
    if isinstance(out, RemoteFolder):
        out = Path(tempfile.gettempdir()) / "ffdist"
    made = [folder for folder in out.parents if not os.path.lexists(folder)]
    partial_folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    unlocked = partial_folder.with_suffix(".begun")  # a name that no other process takes for a leftover before the lock
    try:
        unlocked.mkdir(parents=True)
        held = os.open(unlocked, os.O_RDONLY)
        lock(held)
        unlocked.rename(partial_folder)
        left = (path for path in out.parent.glob(".*.partial") if path != partial_folder)
        remove_unheld(path for path in left if LEFT.fullmatch(path.name))
    except OSError as error:
        remove(unlocked, made)
        raise DataError(
            "the folder cannot be made",
            where=out,
            expected="a place for a new folder",
            got=why_unwritable(out, error),
            remedy=remedy_unwritable(out, error, [setting("out")]),
        ) from error
    try:
        yield partial_folder
    except OSError as error:
        full = error.errno in FULL or "No space left" in str(error)
        raise DataError(
            "no room on the disk" if full else "the folder cannot be written",
            where=out.parent,
            got=system_reason(error, partial_folder) if full else error,
            remedy="make room" if full else remedy_of(error, f"name another with {setting('out')}"),
        ) from error
    finally:
        os.close(held)
        remove(partial_folder, made)


def remove(partial_folder: Path, made: list[Path]) -> None:
    """Remove a partial folder, unless it has its name by now, and empty folders that were made for it."""
    shutil.rmtree(partial_folder, ignore_errors=True)
    with suppress(OSError):
        for folder in made:
            folder.rmdir()
