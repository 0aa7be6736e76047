"""A process's handling of requests to stop: by Ctrl-C, by SIGTERM, or by the end of its terminal."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from ffdist.errors import Interrupted, exit_status
from ffdist.notes import QUIET

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AS_ONE = 0.3
"""Seconds within which signals count as one: timeout(1), for one, sends its own to a process, and to its group."""


def handled_signals() -> list[signal.Signals]:
    """All but those that whoever started this process wants ignored: nohup, a script's background jobs."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def handle_signals(handle: Callable[[int, FrameType | None], Any]) -> None:
    """Handle signals from now on. Of no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in handled_signals():
        signal.signal(number, handle)


@contextmanager
def signals_restored() -> Iterator[None]:
    """A context after which signals are handled as before: a program, too, may run a command."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # one that was not set from Python
                    signal.signal(number, handler)


def leave_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """A handler for where nothing has to be tidied up, such as while modules are imported: they may take an exception
    for one of their own."""
    os._exit(exit_status(number))


def unwind(number: int, frame: FrameType | None = None) -> NoReturn:
    """A handler for where what was begun has to go again."""
    raise Interrupted(number)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A context in which a process is started with these signals blocked, so that none comes before it can answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """A stop that a signal has asked for."""

    number: int = 0
    """The first one's; 0 where there was none."""
    at: float = 0.0


def say_stopping(number: int, *, again: bool = True) -> None:
    """Note that the signal was heard: until the run has ended, which a batch that takes long or a stage that hangs may
    keep it from, nothing else shows it. By the descriptor, as a handler may come in the middle of a print.

    again: whether a second signal ends it at once.
    """
    if QUIET in os.environ:
        return
    name = signal.Signals(number).name
    more = "; a second signal ends it at once" if again else ""
    text = f"ffdist: {name}: the run ends at its next batch, after a snapshot{more}\n"
    with suppress(OSError):  # nobody reads it
        os.write(2, text.encode())


@contextmanager
def interrupts(ask: Callable[[int], None]) -> Iterator[StopRequest]:
    """The first signal calls `ask` with its number; another one raises Interrupted. Of no effect outside the main
    thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not request.number:
            request.number, request.at = number, now
            ask(number)
            say_stopping(number)
        elif now - request.at > AS_ONE:
            raise Interrupted(number)

    previous = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def handle_in_thread(handler: Callable[[int], None], numbers: tuple[int, ...] = SIGNALS) -> int:
    """Call `handler` with each signal's number in a thread of its own, at once, whatever the main thread waits for: a
    handler of Python's would have to wait for the end of a call into C++.

    Returns the descriptor that was woken before; -1 for none.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while numbers_heard := reader.recv(16):  # nothing, when it is no longer listened to
            for number in numbers_heard:
                if number in numbers:
                    handler(number)

    threading.Thread(target=listen, name="ffdist signals", daemon=True).start()
    return signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
