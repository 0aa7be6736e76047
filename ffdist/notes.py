"""Notes for users where nothing is wrong: what was guessed, mapped or left as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from ffdist.spelling import as_field, as_flags, spelled

QUIET = "FFDIST_QUIET"
"""In the environment: a user wants to hear of errors alone; for processes that are started, too."""


FLAGS = "FFDIST_FLAGS"
"""In the environment: the user is at the command line, and knows settings by their flags; for processes that are
started, too, which have notes of their own."""


_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silenced() -> Iterator[None]:
    """A context without notes: another process has written them."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


@contextmanager
def spelled_as_flags() -> Iterator[None]:
    """A context whose notes spell settings as the command line does, in processes that are started within, too."""
    with _in_environment(FLAGS):
        yield


@contextmanager
def quieted(quiet: bool) -> Iterator[None]:
    """A context in which the user hears of errors alone, where that is wanted, in processes that are started within,
    too."""
    with _in_environment(QUIET) if quiet else nullcontext():
        yield


@contextmanager
def _in_environment(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def note(text: str) -> None:
    """A line on stderr, with settings as the user's front door spells them, but where a user wants none."""
    if QUIET not in os.environ and not _silent.get():
        write(text, always=False)


def failure(text: str) -> None:
    """Print what has failed though the run goes on: for users who want to hear of errors alone, too."""
    if not _silent.get():
        write(text, always=True)


PassOn = Callable[[str, bool], None]
"""Takes a text with the settings in it still to be spelled, and whether it tells of a failure."""
_pass_on: list[PassOn] = []


def passed_to(take: PassOn) -> None:
    """Pass on to `take` whatever this process notes from here on: nobody reads its stderr."""
    _pass_on[:] = [take]


def write(text: str, *, always: bool) -> None:
    for take in _pass_on:
        take(text, always)
        return
    try:
        print(f"ffdist: {spelled(text, as_flags if FLAGS in os.environ else as_field)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass  # the disk that it goes to is full, or its terminal is gone: no run ends by that


def listed(values: list, limit: int = 8) -> str:
    """Values for a line of text, the middle left out of many."""
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= limit else [*shown[: limit - 2], "...", shown[-1]])
