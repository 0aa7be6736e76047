"""Locks on open files and folders. The system drops a lock with the process that holds it, however that ends, so a kill
leaves none behind."""

from __future__ import annotations

import fcntl
from typing import IO, Any, Literal

LockState = Literal["held", "busy", "unsupported"]


def lock(file: int | IO[Any], *, shared: bool = False, wait: bool = False) -> LockState:
    """Lock an open file or folder until it is closed, and say what came of it: "held", "busy" where another holds it,
    "unsupported" where its file system has no locks.

    file: open, or its descriptor. shared: beside all who share it, too. wait: until it is free.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError:
        return "unsupported"
    return "held"
