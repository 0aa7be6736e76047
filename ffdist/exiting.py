"""A process of ffdist's own: its name, its parent, and its end.

At its end Python frees what torch has made, object by object, for up to a second; the system frees it anyway.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any, NoReturn

FILES = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}
"""What `open` makes of files that can be written."""
OF_SYSTEM = {"_io", "asyncio", "multiprocessing", "ray", "socket", "subprocess", "torch"}
"""Modules whose objects the system frees as well: memory, and connections, over which daemons may still speak."""
_own_program = False
_forked = False
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def end_with_parent(parent: int) -> None:
    """The kernel ends this process when the thread that has started it ends, in the process `parent`, even where this
    one is stopped (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it may die between the fork and prctl, which then waits for the death of whoever has adopted this process
        if os.getppid() != parent:  # it has died already
            os._exit(1)


def end_with_starter() -> None:
    """End this process of multiprocessing with the one that has started it (`end_with_parent`): whether it was spawned,
    or forked from a server that ends with that one."""
    from multiprocessing import parent_process

    end_with_parent(os.getppid())
    starter = parent_process()
    if starter is None or not starter.is_alive():
        os._exit(1)


def name_process(name: str) -> None:
    """Give this process a name, of up to 15 characters, for `ps` and `top` (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def begin_own_program() -> None:
    """Note that this process is a program of ffdist's own from its beginning, and not one in which it is called."""
    global _own_program
    _own_program = True
    hear_of_children()


def hear_of_children() -> None:
    """Have the system tell how a child of this process has ended: where SIGCHLD is ignored, which is inherited from
    whoever has started it, it does not, and every end looks like a success."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def children_heard() -> Iterator[None]:
    """A context in which the system tells how children end (`hear_of_children`), for a process in which ffdist is
    called and which ignores SIGCHLD. Of no effect outside the main thread, where signals cannot be set."""
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    hear_of_children()
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def in_own_program() -> bool:
    """True if it was noted."""
    return _own_program


def leave_inherited() -> None:
    """Leave what there is now to the process that this one was forked from: its files are that one's to write, and
    nothing of it is looked through at this one's end."""
    global _forked
    _forked = True
    gc.freeze()


def is_forked() -> bool:
    """True if this process was forked, and has left what it has inherited."""
    return _forked


def end_process(status: int) -> NoReturn:
    """End as Python does - after its threads, except daemons, and the functions of `atexit`, with open files written
    and what has a `__del__` in Python tidied up -, but free no objects."""
    # what the interpreter does first at its end, and multiprocessing in its children; nothing public does it
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not _forked:
        gc.unfreeze()  # or what was opened before a freeze, by a module as it was imported, say, would not be found
    for finish in finishes(gc.get_objects()):
        with suppress(Exception):  # closed, or not to be written; or whatever a user's code raises, as in Python's end
            finish()
    end_process_now(status)


def finishes(objects: list[Any]) -> list[Callable[[], None]]:
    """List what is to be called of objects: first the flushes of files, into archives perhaps, then what completes
    these, and removes temporary files."""
    flushes, ends = list[Callable[[], None]](), list[Callable[[], None]]()
    known = dict[type, bool]()
    for each in objects:
        kind = type(each)  # by `isinstance` it would take as long as all that is saved, and wake lazy objects
        if kind in FILES:
            flushes.append(each.flush)
        elif known[kind] if kind in known else known.setdefault(kind, tidies_up(kind)):
            ends.append(each.__del__)
    return flushes + ends


def tidies_up(kind: type) -> bool:
    """True if the objects of a class tidy up when they are freed, by code of Python's or as files: so temporary ones
    go, and archives are completed."""
    if str(getattr(kind, "__module__", "")).partition(".")[0] in OF_SYSTEM:
        return False
    found = next((each.__dict__["__del__"] for each in kind.__mro__ if "__del__" in each.__dict__), None)
    return isinstance(found, FunctionType) or (found is not None and io.IOBase in kind.__mro__)


def end_process_now(status: int) -> NoReturn:
    """End this process at once, whatever its threads do. What it has said is written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(status)
