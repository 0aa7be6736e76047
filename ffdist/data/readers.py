"""Samples made side by side by code of a user's own: items of a data set are read, or pictures changed.

What such code draws comes from generators that belong to a process, so that threads can only take turns. So each reader
is a process with a copy of the data set, or of the transforms; a sample's seed says what it draws, whoever makes it.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import LifoQueue
from threading import Lock, Thread
from typing import Any, Protocol

import numpy as np
import torch

from ffdist.data.reader_process import EVERY, START, Order, ReaderStart
from ffdist.errors import ConfigError, DataError, FfdistError, StageLostError, setting
from ffdist.interpreter import interpreter_running
from ffdist.notes import note
from ffdist.payload import GUARD, pack
from ffdist.process_stat import is_stopped

ONE_READER = setting("dataset.loader_workers", 0)
GRACE = 2.0
"""Seconds that a reader has to end by itself."""
IMPORTS = 60.0
"""Seconds more that one may be silent as it starts, where nobody has stopped it: what loads torch gives no other thread
its turn."""
_longest_silence = 120.0
"""Seconds after which a reader of this process hangs that says nothing."""


def wait_for_readers_at_most(seconds: float) -> None:
    """Set how long a reader of this process may give no sign of life, while it makes samples."""
    global _longest_silence
    _longest_silence = seconds


class ReaderProcess:
    """One reader process, started; its first message says whether it can read (`received`)."""

    def __init__(self, start: ReaderStart) -> None:
        self.line, there = multiprocessing.Pipe()
        command = interpreter_running(START, str(there.fileno()), str(os.getpid()), "ffdist-reader")
        started: Future[subprocess.Popen[bytes]] = Future()
        # a reader ends with the thread that has started it, and whoever wants samples may be one of a moment
        Thread(target=start_and_wait, args=(command, there, started), name="ffdist-reader", daemon=True).start()
        self.process = started.result()
        Thread(target=send_start, args=(self.line, start), name="ffdist-reader", daemon=True).start()

    def take(self, order: Order, out: np.ndarray, where: str) -> None:
        """Fill `out` with the samples of the order. Raises what reading raises, and as `answer` does."""
        with suppress(OSError):  # it has died, as its answer tells
            self.line.send(order)
        if (error := self.answer(where)) is not None:
            raise error
        try:
            self.line.recv_bytes_into(out.reshape(-1).view("u1"))  # pyright: ignore[reportArgumentType] - a buffer
        except (EOFError, OSError) as error:
            raise self.lost_error(where) from error

    def answer(self, where: str, more: float = 0.0) -> Exception | None:
        """Wait for what it says next, but that it lives. Raises StageLostError where it does not answer (for so many
        seconds more than is usual, unless it is stopped), and as `lost_error` where it has died."""
        limit = _longest_silence + more
        heard = looked = time.monotonic()
        try:
            while looked - heard <= limit:
                spoke = self.line.poll(EVERY)
                if spoke and not isinstance(said := self.line.recv(), str):
                    return said
                now = time.monotonic()
                if spoke or now - looked > EVERY + limit / 2:  # it lives; or this process itself was stopped
                    heard = now
                looked = now
                # by the system's word, as one that has not given any sign yet may be at the imports still
                limit = _longest_silence + (0.0 if is_stopped(self.process.pid) else more)
        except (EOFError, OSError) as error:
            raise self.lost_error(where) from error
        self.process.kill()
        self.process.wait()
        raise StageLostError(
            "a process that makes samples does not answer",
            where=f"{where}, process {self.process.pid} of host {platform.node()}",
            expected=f"a sign of life within {limit:g} s",
            got="silence",
            remedy=f"look for what has stopped it; or raise {setting('run.timeout')} where the machine has too much to "
            "do",
        )

    def lost_error(self, where: str) -> DataError | StageLostError:
        """The error for a process that has died, with its exit status or signal: StageLostError where it was killed,
        as another attempt may help then."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        code = self.process.poll()
        how = "it is silent" if code is None else f"exit status {code}"
        how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else how
        memory = "a system out of memory kills so: fewer of them, or " if code == -signal.SIGKILL else ""
        kind = StageLostError if code and code < 0 else DataError
        return kind("a process that makes samples has died", where=where, got=how, remedy=f"{memory}{ONE_READER}")

    def end(self) -> None:
        """End the process, by a kill where it does not end by itself within `GRACE` seconds."""
        self.line.close()  # the process ends when its line does
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_and_wait(command: list[str], there: Connection, started: Future[subprocess.Popen[bytes]]) -> None:
    """Start a process that has the other end of a line, and wait for its end."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(there.fileno(),))
    except BaseException as error:
        started.set_exception(error)
        return
    finally:
        there.close()
    started.set_result(process)
    process.wait()


def send_start(line: Connection, start: ReaderStart) -> None:
    """Send the first message; in a thread, as a large one blocks until the new process has started and reads it."""
    with suppress(OSError):  # it has died, as its line will tell
        line.send(sys.path)
        line.send(start)


class SampleReader(Protocol):
    """A maker of samples that can be sent to a process."""

    what: str
    alone: str
    """How samples are made without processes."""

    @property
    def where(self) -> str: ...

    @property
    def read(self) -> Callable[..., np.ndarray]: ...


class Readers:
    """`count` processes that make samples of one source, once they are started. They end with this object, or with this
    process."""

    def __init__(self, source: SampleReader, count: int) -> None:
        self.source = source
        self.count = count
        self.all: list[ReaderProcess] = []
        self.idle: LifoQueue[ReaderProcess] = LifoQueue()
        self.begun: bool | None = None
        """Whether all processes can read; None: they are not started yet."""
        self.lost = False
        """Whether one of them has died: whoever wants readers takes others."""
        # batches are made by several threads, and the first of them to come starts all processes
        self.lock = Lock()
        # with the number of this process: a fork has the finalizer as well, and must not end its parent's readers
        weakref.finalize(self, end_all, self.all, os.getpid())

    def read(self, order: Order, kind: tuple[Any, tuple[int, ...]]) -> np.ndarray:
        """Samples of this type and shape, as `source.read(*order)` gives them: by one of the processes, where they are
        started."""
        if not self.begun or not kind[1][0]:
            return self.source.read(*order)
        out = np.empty(kind[1], kind[0])
        reader = self.idle.get()
        try:
            reader.take(order, out, self.source.where)
        finally:
            self.lost |= reader.process.poll() is not None
            self.idle.put(reader)
        return out

    def start(self) -> None:
        """Start the processes, once: before many samples are made."""
        with self.lock:
            if self.begun is None:
                self.begun = self.begin()

    def begin(self) -> bool:
        """Start all processes; False where they cannot read, with a note that says why."""
        try:
            start = ReaderStart(sys.argv, torch.get_num_threads(), pack(self.source, self.source.what))
            self.all.extend(ReaderProcess(start) for _ in range(self.count))
            for reader in self.all:
                if (error := reader.answer(self.source.where, IMPORTS)) is not None:
                    raise error
        except (ConfigError, DataError, StageLostError) as error:
            end_all(self.all, os.getpid())
            note(f"{self.source.where}: {self.source.alone}: {reason(error)}")
            return False
        for reader in self.all:
            self.idle.put(reader)
        return True


def reason(error: FfdistError) -> str:
    """The reason that items cannot be read by other processes, in a line."""
    text = " ".join(str(error.got).split())
    remedy = "what a module defines, without lambdas and open files"
    if isinstance(error, StageLostError):
        remedy = error.details["remedy"]
    if error.remedy == GUARD:
        remedy = "put what starts the run under `if __name__ == '__main__':`"
    return f"{error.what} ({text}); for several readers: {remedy}"


def end_all(readers: list[ReaderProcess], owner: int) -> None:
    """owner: the process that started them; a fork of it leaves them alone."""
    if os.getpid() == owner:
        while readers:
            readers.pop().end()
