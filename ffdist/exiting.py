"""The end of a process of ffdist's own.

At its end Python frees what torch has made, object by object, for up to a second; the system frees it anyway.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

FILES = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}
"""What `open` makes of files that can be written."""


def end_process(status: int) -> NoReturn:
    """End as Python does - after its threads, except daemons, and the functions of `atexit`, with open files written -,
    but free no objects: their `__del__` is not called."""
    # what the interpreter does first at its end, and multiprocessing in its children; nothing public does it
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.unfreeze()  # or what was opened before a freeze, by a module as it was imported, say, would not be found
    for file in gc.get_objects():
        if type(file) in FILES:  # by `isinstance` it would take as long as all that is saved, and wake lazy objects
            with suppress(OSError, ValueError):  # closed, or not to be written
                file.flush()
    end_process_now(status)


def end_process_now(status: int) -> NoReturn:
    """End this process at once, whatever its threads do. What it has said is written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(status)
