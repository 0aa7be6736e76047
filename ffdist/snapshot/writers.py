"""Locks on a run's folder by those who write into it: each worker for itself, so that it is held when the launcher is
killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffdist.errors import StageError
from ffdist.folders import system_reason
from ffdist.locks import lock
from ffdist.regular import append_to, open_regular

WRITERS = ".writers"
"""The file that they lock, in shares."""


@contextmanager
def writing_there(run: Path | None) -> Iterator[None]:
    """A context in which this worker may write there, and `written_there` says so. Raises StageError for a folder that
    is gone."""
    if run is None:
        yield
        return
    try:
        file = append_to(run / WRITERS)
    except OSError as error:
        raise StageError(
            "the run folder is gone, or cannot be written", where=run, got=system_reason(error, run)
        ) from error
    with file:
        lock(file, shared=True, wait=True)  # `written_there` holds it for a moment
        yield


def written_there(run: Path) -> bool:
    """True if workers of a run that has lost its launcher are still at work there."""
    with suppress(OSError), open_regular(run / WRITERS) as file:
        return lock(file) == "busy"
    return False
