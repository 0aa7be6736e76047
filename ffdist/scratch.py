"""Folders and files that a process needs for a while, and that go with it: what a killed one has left is removed by the
next."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffdist.locks import lock

PREFIX = "ffdist-scratch-"
"""How nobody else begins a folder's name: what is called so is removed."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder among the temporary ones, removed on exit; those that killed processes of this user have left are
    removed first."""
    folder, held = _held_folder()
    try:
        with suppress(OSError):  # one has gone meanwhile
            mine = [path for path in folder.parent.glob(f"{PREFIX}*") if path.lstat().st_uid == os.geteuid()]
            remove_unheld(mine)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _held_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor by which it is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # before it is held, another process may have taken it for one that was left
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY)
            lock(held, wait=True)  # who looks holds it for a moment
            if folder.exists():
                return folder, held
            os.close(held)


def remove_unheld(folders: Iterable[Path]) -> None:
    """Remove the folders that nobody holds: whoever made them has been killed."""
    for folder in folders:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if lock(descriptor) == "held":  # without locks nobody knows, and it stays
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, first under a name of this process's, as others may write it, too; what killed
    ones have left under theirs is removed. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError), left.open("rb") as file:
            if lock(file) == "held":
                left.unlink()
    while True:
        with partial.open("wb") as file:
            lock(file, wait=True)  # who looks holds it for a moment
            if os.fstat(file.fileno()).st_nlink:  # else one who has looked took it for left, before it was held
                file.write(data)
                file.flush()
                partial.replace(path)
                return
