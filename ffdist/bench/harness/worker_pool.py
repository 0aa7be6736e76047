"""Processes that stay alive for a whole comparison and work when they get an order.

A side that waits for an order is blocked in a pipe and costs no core, so the sides of a comparison can take turns
without being started anew: no cold start lies between two rounds, and a pair of rounds is seconds apart.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ffdist.device import enter, group_backend, queues
from ffdist.errors import StageError
from ffdist.exiting import end_with_starter
from ffdist.runtime.allocator import keep_freed_memory
from ffdist.runtime.interrupts import SIGNALS, signals_blocked
from ffdist.runtime.world import World
from ffdist.scratch import scratch_folder
from ffdist.transport.measure import pin_to_cores
from ffdist.transport.process_group import LOOPBACK

if TYPE_CHECKING:
    from typing_extensions import Self

GRACE = 5.0
"""Seconds that the others have to report their own errors, once one has failed."""


class PoolMember:
    """A member's own end: its rank, the store in which members meet, and its pipe to the one who gives orders."""

    def __init__(self, world: World, store_file: str, line: Connection) -> None:
        self.world = world
        self.store_file = store_file
        self.line = line

    def store(self) -> dist.Store:
        """A new handle of the file store that all members share."""
        return dist.FileStore(self.store_file, self.world.size)

    def next_order(self) -> Any:
        """The next order; None when there is nothing more to do."""
        try:
            return self.line.recv()
        except EOFError:
            return None

    def answer(self, value: Any) -> None:
        """Send an answer, which must be picklable, to the one who gives orders."""
        self.line.send(("answer", value))


def join(member: PoolMember, device: torch.device, threads: int) -> None:
    """Form the default group of all ranks."""
    torch.set_num_threads(threads)
    enter(device)
    dist.init_process_group(
        group_backend(device),
        store=member.store(),
        rank=member.world.rank,
        world_size=member.world.size,
        timeout=timedelta(minutes=10),
        device_id=device if queues(device) else None,
    )


WorkerMain = Callable[[PoolMember], Any]
"""What a member does until its orders end. Picklable, and so must be what it returns."""


class WorkerPool:
    """`size` processes with one main function. An order goes to all of them, and those who should answer do.

    keep_memory: whether freed memory stays with the process, as in training; False only to measure what that brings.
    parents: whether members start processes of their own, which daemons may not.
    """

    def __init__(
        self, name: str, main: WorkerMain, size: int, *, keep_memory: bool = True, parents: bool = False
    ) -> None:
        context = multiprocessing.get_context("spawn")  # an interpreter for each member: its memory is its own
        self.name = name
        self.size = size
        self.ends = ExitStack()
        folder = self.ends.enter_context(scratch_folder())
        self.lines: list[Connection] = []
        self.answers: dict[int, Any] = {}
        """Return values of the members that have ended, by rank."""
        self.processes = []
        for rank in range(size):
            here, there = context.Pipe()
            member = (World(rank, size, rank), str(folder / "store"), there)
            process = context.Process(
                target=_member,
                args=(main, keep_memory, *member),
                name=f"{name}-{rank}",
                daemon=not parents,
            )
            with signals_blocked():
                process.start()
            there.close()
            self.lines.append(here)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
        for line in self.lines:
            line.close()
        self.ends.close()

    def ask(self, order: Any, ranks: Sequence[int] | None = None) -> Any:
        """Give an order to `ranks` (default: all) and wait for one answer. Raises StageError when a member fails."""
        self.send(order, ranks)
        return self.recv()

    def send(self, order: Any, ranks: Sequence[int] | None = None) -> None:
        """Give an order to `ranks` (default: all)."""
        for rank in range(self.size) if ranks is None else ranks:
            try:
                self.lines[rank].send(order)
            except BrokenPipeError:
                continue  # it has ended: its error is still in the pipe, and `recv` raises it

    def recv(self) -> Any:
        """The next answer of any member. Raises StageError when a member fails, or all have ended."""
        while len(self.answers) < self.size:
            for line in wait(self._open()):
                assert isinstance(line, Connection)
                if (answer := self._read(line)) is not None:
                    return answer
        raise StageError(f"side '{self.name}' ended", expected="one more answer", got="the last words of all")

    def finish(self) -> list[Any]:
        """End the orders; what every member's main function returned, by rank. Raises StageError as `recv` does."""
        self.send(None)
        while len(self.answers) < self.size:
            for line in wait(self._open()):
                assert isinstance(line, Connection)
                self._read(line)
        return [self.answers[rank] for rank in range(self.size)]

    def _open(self) -> list[Connection]:
        return [line for rank, line in enumerate(self.lines) if rank not in self.answers]

    def _read(self, line: Connection) -> Any:
        """An answer; None for a return value, which is kept."""
        rank = self.lines.index(line)
        try:
            kind, value = line.recv()
        except (EOFError, ConnectionResetError):
            self.processes[rank].join()
            kind, value = "failure", ("StageError", f"exit status {self.processes[rank].exitcode}", "")
        if kind == "failure":
            self._fail([value])
        if kind == "end":
            self.answers[rank] = value
        return value if kind == "answer" else None

    def _fail(self, failures: list[tuple[str, str, str]]) -> None:
        """Raise the failure that explains the others; a lost peer is what the neighbours saw of it."""
        lines = self._open()
        while ready := wait(lines, GRACE):
            for line in ready:
                assert isinstance(line, Connection)
                try:
                    kind, value = line.recv()
                except (EOFError, ConnectionResetError):
                    lines.remove(line)
                    continue
                failures += [value] if kind == "failure" else []
        known = [f for f in failures if f[0] not in ("TransportError", "PeerLostError", "PeerTimeoutError")]
        kind, text, trace = (known or failures)[0]
        got = f"{kind}: {text}\n{trace}".strip()
        raise StageError(f"side '{self.name}' failed", expected="a finished round", got=got)


def _member(main: WorkerMain, keep_memory: bool, world: World, store_file: str, line: Connection) -> None:
    """A member's life."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    end_with_starter()  # a closed pipe is noticed between two rounds only, and a round may take minutes
    # Ctrl-C reaches all processes of the terminal; the parent ends these
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if keep_memory:
        keep_freed_memory()  # for every side alike, and so is its share of the cores
    pin_to_cores(world.rank, world.size)
    try:
        line.send(("end", main(PoolMember(world, store_file, line))))
    except Exception as error:  # of any kind: the parent raises it, with the failures of the others
        line.send(("failure", (type(error).__name__, str(error), traceback.format_exc(limit=-4))))
        sys.exit(1)
