"""The places where downloads and prepared data are kept, and who may write there meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffdist.errors import ConfigError, DataError, setting
from ffdist.folders import why_unwritable
from ffdist.locks import lock
from ffdist.notes import note

CACHE = "FFDIST_CACHE"
"""In the environment: the folder for downloads, and for what is prepared on the way to a run."""
MIRROR = "FFDIST_MIRROR"
"""In the environment: addresses that have the files of known data sets, in place of their own, separated by blanks."""
PREPARED = "prepared"
"""The folder in the cache."""


def cache_folder() -> Path:
    """$FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache.

    Raises ConfigError for a user whose home nobody knows.
    """
    own, caches = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME", "")
    if not caches.startswith(("/", "~")):  # the XDG base directory specification takes no relative ones
        caches = "~/.cache"
    try:
        return Path(own).expanduser().absolute() if own else Path(caches, "ffdist").expanduser()
    except RuntimeError as error:
        raise ConfigError(
            "there is no home to keep downloads in",
            where=own or caches,
            got=error,
            remedy=f"name a folder with {setting('cache')}",
        ) from error


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a file lock inside the context: one process at a time; a process that has to wait says so once.

    doing: what the other process does, for the note. Raises OSError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if lock(descriptor) == "busy":  # on a file system without locks the same work may be done twice
            note(f"another process is {doing}; waiting for it")
            lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def unwritable_cache_error(folder: Path, error: OSError) -> DataError:
    """The error for a cache that cannot be written."""
    return DataError(
        "the cache for data cannot be written",
        where=folder,
        got=why_unwritable(folder, error),
        remedy=f"set {CACHE} to a folder that can be written, e.g. {CACHE}=/tmp/ffdist",
    )
