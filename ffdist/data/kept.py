"""The contents of the cache for data, their sizes, and what may go."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffdist.data.places import PREPARED, cache_folder
from ffdist.errors import ConfigError, DataError
from ffdist.notes import listed

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class KeptDataset:
    """A data set that was prepared on the way to a run, or a download."""

    name: str
    """The name of its folder, or file."""
    kind: Literal["prepared", "download"]
    folder: Path
    bytes: int
    used: float
    """When it was made or used last, in seconds since 1970."""


def list_cache() -> list[KeptDataset]:
    """List the cache's contents, prepared data sets first."""
    cache = cache_folder()
    found = [kept_dataset(path, "prepared") for path in entries(cache / PREPARED) if path.name != "index"]
    return found + [kept_dataset(path, "download") for path in entries(cache) if path.name != PREPARED]


def prune_cache(names: Sequence[str] = (), *, unused_days: float | None = None) -> list[KeptDataset]:
    """Remove what has these names, or, where none is given, the prepared data sets that were not used for so many days:
    what else lies there may be a user's own. Returns what is gone.

    What is removed is prepared or fetched anew when it is needed. Runs that read it go on to their end. Raises
    ConfigError for a name that is not there, and DataError for what cannot be removed.
    """
    found = list_cache()
    if unknown := [name for name in names if name not in {each.name for each in found}]:
        raise ConfigError(
            "the cache holds nothing of that name",
            where=cache_folder(),
            got=listed(unknown),
            expected=listed([each.name for each in found]) or "nothing",
        )
    if unused_days is not None and not unused_days >= 0:
        raise ConfigError("days are counted from 0", where="unused_days", expected=">= 0", got=unused_days)
    old = float("-inf") if unused_days is None else time.time() - unused_days * DAY
    gone = [each for each in found if (each.name in names if names else each.kind == "prepared" and each.used <= old)]
    for each in gone:
        remove(each.folder)
    return gone


def remove(path: Path) -> None:
    """Remove a file or folder: it is renamed first, so that it is gone at once, however long deleting takes."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() and not aside.is_symlink() else aside.unlink()
    except OSError as error:
        raise DataError("what is in the cache cannot be removed", where=path, got=error.strerror or error) from error


def entries(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted, without partial ones; empty where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def kept_dataset(path: Path, kind: Literal["prepared", "download"]) -> KeptDataset:
    """The entry of one file or folder of the cache."""
    try:
        used = path.stat().st_mtime
    except OSError:  # it is gone meanwhile
        used = 0.0
    return KeptDataset(path.name, kind, path, size(path), used)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder at any depth."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(OSError):
            total += 0 if file.is_dir() else file.stat().st_size
    return total


def mark_used(folder: Path) -> None:
    """Set a prepared folder's time of last use to now; a cache that others own stays as it is."""
    with suppress(OSError):
        os.utime(folder)


def size_text() -> str:
    """The size of all that was prepared, in a line."""
    prepared = [each for each in list_cache() if each.kind == "prepared"]
    total = sum(each.bytes for each in prepared) / 2**20
    sets = f"{len(prepared)} prepared data set{'s' * (len(prepared) != 1)}"
    return f"the cache holds {sets}, {total:,.1f} MiB (ffdist data cache lists and removes them)"
