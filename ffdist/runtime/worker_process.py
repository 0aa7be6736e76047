"""A worker's process as its launcher has it: started, sent its job, told to stop, ended.

A process is started with nothing but one end of a line. Over it come the job, as bytes, and orders; over it go events;
and either end knows by it at once when the other one is gone.
"""

from __future__ import annotations

import codecs
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from threading import Thread

from ffdist.errors import StageError, StageLostError, setting
from ffdist.interpreter import interpreter_running
from ffdist.payload import Payload
from ffdist.runtime.child import START, WORKER, ProcessStart
from ffdist.runtime.fork_server import ForkedProcess, ServerLostError, fork_server
from ffdist.runtime.heartbeat import STACK
from ffdist.runtime.interrupts import signals_blocked
from ffdist.runtime.world import World

KILLED: dict[int, str] = {
    signal.SIGKILL: "a system out of memory kills so: a smaller batch size, or more stages",
    signal.SIGBUS: "a file that code of yours has mapped (numpy.memmap, an Arrow file) was cut off: restore it; or the "
    "disk or memory behind /dev/shm is full: make room; then go on from the last snapshot",
}
"""What is to be done where a signal has ended a process."""
TAIL = 2000
"""Characters of what a process wrote last that the error of its death has."""


@dataclass
class WorkerProcess:
    """A worker's process, what it reports, and the error that it reported."""

    rank: int
    process: subprocess.Popen[bytes] | ForkedProcess
    line: Connection
    stderr: int
    """The descriptor of what it writes there."""
    error: BaseException | None = None
    done: bool = False
    open: bool = True
    until: float | None = None
    """When it is ended, as it hangs, whatever it has written by then."""
    heard: float = field(default_factory=time.monotonic)
    """When it gave a sign of life last."""
    activity: str = "starting"
    """What it said then that it was at."""
    said: str = ""
    """The end of what it wrote on stderr."""
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def __str__(self) -> str:
        return f"worker {self.rank} (process {self.process.pid})"

    def pass_on(self) -> bool:
        """Pass on what it has written on stderr to this process's own; return whether it may write more."""
        try:
            written = os.read(self.stderr, 1 << 16)
        except BlockingIOError:
            return True
        text = self.decoder.decode(written)
        self.said = (self.said + text)[-TAIL:]
        if text and sys.stderr:
            with suppress(OSError, ValueError):  # nobody reads it
                sys.stderr.write(text)
                sys.stderr.flush()
        return bool(written)

    def order_stop(self) -> None:
        """Tell it to end the run early, with a snapshot."""
        with suppress(OSError):  # it is gone, as its line will tell
            self.line.send_bytes(b"stop")

    def drain(self) -> None:
        """Read what its end has left on the way."""
        while wait([self.stderr], 0) and self.pass_on():
            pass

    def hung_error(self, timeout: float, others: Sequence[str]) -> StageLostError:
        """The error of one that gives no sign of life. others: what the other workers are at."""
        return StageLostError(
            f"worker {self.rank} does not answer",
            where=f"process {self.process.pid} of host {platform.node()}",
            expected=f"a sign of life within {timeout:g} s",
            got=f"silence for {time.monotonic() - self.heard:.1f} s; last it was {self.activity}"
            + "".join(f"; {other}" for other in others),
            remedy="where each worker stood is in its log; look for what has stopped the process, or raise "
            f"{setting('run.timeout')} where the machine has too much to do",
        )

    def dump_stack(self) -> None:
        """Have it write where it is, in its own log; one that is stopped does so when it goes on, which is now."""
        with suppress(OSError):
            self.process.send_signal(STACK)
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Close its pipes, once it has ended."""
        self.line.close()
        os.close(self.stderr)

    def died_error(self) -> StageLostError:
        """The error of one that has ended without telling of its own: its status, and what it wrote last."""
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        if isinstance(self.process, ForkedProcess) and self.process.lost_with:
            how += f", as the fork server (process {self.process.lost_with}) has died"
        said = "\n    ".join(["", *self.said.strip().splitlines()])
        return StageLostError(
            f"worker {self.rank} died",
            where=f"process {self.process.pid}",
            expected="an end without errors",
            got=how + (f"; it said:{said}" if said else ""),
            remedy=KILLED.get(-code),
        )


def start_worker(world: World, store: str, descriptors: tuple[int, ...], payload: Payload) -> WorkerProcess:
    """A process that waits for its job, which is sent as fast as it takes it. Raises StageError where the system has no
    room for it."""
    here, there = multiprocessing.Pipe()
    stderr, write_end = os.pipe()
    os.set_blocking(stderr, False)
    try:
        # a signal in between would leave a process that nobody knows of; the child lets them in when it has handlers
        with signals_blocked():
            process, parent = forked_or_interpreter(there.fileno(), write_end, descriptors)
            worker = WorkerProcess(world.rank, process, here, stderr)
    except OSError as error:
        here.close()
        os.close(stderr)
        raise not_started_error(world.rank, error) from error
    finally:  # held here, too, they would stay open when the worker dies, and its end would not be seen
        there.close()
        os.close(write_end)
    start = ProcessStart(world, store, parent, sys.argv, payload.script)
    # a pipe holds little: a worker that still starts would make the launcher wait, and the other workers with it
    sender = Thread(target=send_job, args=(here, start, payload.data), name=f"send {WORKER}{world.rank}", daemon=True)
    try:
        sender.start()
    except RuntimeError as error:
        worker.end()
        worker.close()
        raise not_started_error(world.rank, error) from error
    return worker


def not_started_error(rank: int, error: Exception) -> StageError:
    return StageError(
        f"worker {rank} cannot be started",
        where=f"host {platform.node()}",
        expected="room for another process, and its threads",
        got=str(error),
        remedy="fewer workers; or let the system have more processes (`ulimit -u`, or the container's limit of "
        "processes), memory, and open files (`ulimit -n`)",
    )


def forked_or_interpreter(
    line: int, stderr: int, descriptors: tuple[int, ...]
) -> tuple[subprocess.Popen[bytes] | ForkedProcess, int]:
    """A process that is to read from this line what it is, and the number of the one that it ends with."""
    if server := fork_server():
        with suppress(ServerLostError):
            return server.start(line, stderr, descriptors), server.pid
    command = interpreter_running(START, str(line))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, pass_fds=(line, *descriptors))
    return process, os.getpid()


def send_job(line: Connection, start: ProcessStart, data: bytes) -> None:
    """Send what `START` and `child.main` read, in order: the path of modules first, by which they read the rest."""
    with suppress(OSError):  # it has died, as its line will tell
        line.send(sys.path)
        line.send(start)
        line.send_bytes(data)
