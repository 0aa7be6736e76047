"""A process that makes samples for another one, whose orders come over a line; it ends with that one.

`START` is its program. Before torch is imported, signals are left to whoever has started the process, and it is bound
to that one's end, of which its line tells it nothing where it is stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from ffdist.loading import loading
from ffdist.payload import Payload, unpack

START = (
    "import signal, sys; "
    "[signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]; "
    "from multiprocessing.connection import Connection; line = Connection(int(sys.argv[1])); "
    "sys.path[:] = line.recv(); from ffdist.exiting import end_with_parent; end_with_parent(int(sys.argv[2])); "
    "from ffdist.data.reader_process import main; main(line)"
)


class ReaderStart(NamedTuple):
    """The first message to a reader process."""

    argv: Sequence[str]
    threads: int
    """The threads of torch: as many as where items were read first, as sums of many numbers depend on it."""
    payload: Payload
    """What has `read`: `Items` of a data set, or `CallableTransforms` of pictures."""


Order = tuple[Any, ...]
"""The arguments of `read`."""
BEAT = "beat"
"""A sign of life, the one text among the answers."""
EVERY = 0.5
"""Seconds between two of them, as of a worker's (`runtime.heartbeat`, which data may not import)."""


class Answers:
    """The line by which the process answers, and says that it lives while it is awaited."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        # the beats come from a thread of their own, and not between an answer and its samples
        self._sending = Lock()
        self._awaited = Event()
        Thread(target=self._beat, name="ffdist beat", daemon=True).start()

    def begin(self) -> None:
        """Note that an answer is awaited from now on."""
        self._awaited.set()

    def send(self, answer: Exception | None, samples: memoryview | None = None) -> None:
        """The error, or None and the samples' bytes."""
        with self._sending:
            self._awaited.clear()
            self._line.send(answer)
            if samples is not None:
                self._line.send_bytes(samples)

    def _beat(self) -> None:
        try:
            while self._awaited.wait():
                with self._sending:
                    if self._awaited.is_set():
                        self._line.send(BEAT)
                time.sleep(EVERY)
        except OSError:  # whoever waited is gone, as `listen` says
            pass


def main(line: Connection) -> None:
    """The main loop of a reader process.

    It answers once whether it can read (None, or the error), and then each order: the error, or None and the bytes of
    the samples; and says that it lives, until it has answered.
    """
    for stream in (sys.stdout, sys.stderr):  # what several print at a time comes out in whole lines
        stream.reconfigure(line_buffering=True, write_through=False)  # pyright: ignore[reportAttributeAccessIssue]
    orders: SimpleQueue[Order] = SimpleQueue()
    answers = Answers(line)
    answers.begin()
    try:
        start: ReaderStart = line.recv()
        sys.argv[:] = start.argv
        with loading():
            import torch

            torch.set_num_threads(start.threads)
        try:
            source = unpack(start.payload)
        except Exception as error:  # unpickling imports a user's module, which may raise anything
            answers.send(error)
            return
        answers.send(None)
        Thread(target=listen, args=(line, orders), name="ffdist line", daemon=True).start()
        while True:
            order = orders.get()
            answers.begin()
            try:
                samples = source.read(*order)
            except Exception as error:  # a user's code may raise anything; the process that asked raises it again
                answers.send(error)
                continue
            answers.send(None, memoryview(samples.reshape(-1).view("u1")))
    except (EOFError, OSError):
        sys.exit(1)


def listen(line: Connection, orders: SimpleQueue[Order]) -> None:
    """The line's end ends this process at once, whatever a user's code is at."""
    try:
        while True:
            orders.put(line.recv())
    except (EOFError, OSError):
        os._exit(1)
