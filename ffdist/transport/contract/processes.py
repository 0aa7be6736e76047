"""Real processes for tests of what joins them.

`run_processes(function, 3, *args)` runs a module-level function in 3 new processes at once and returns what each
returned. A `Crew` keeps its processes for many such runs (a process that imports torch costs seconds) and replaces
those that died. Whatever happens, nothing outlives the `with` block, and nothing takes longer than `timeout`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ffdist.transport.stores import serve_store

TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class ContractRank:
    """The place where a function runs: its first argument."""

    rank: int
    size: int
    store: dist.Store
    """Fresh for each run, shared by its ranks."""

    def post(self, key: str) -> None:
        """Let the other ranks know that something has happened."""
        self.store.set(f"posted/{key}", "")

    def await_posted(self, key: str, within: timedelta = TIMEOUT) -> bool:
        """Wait until a rank has posted `key`; False if none has within that time."""
        try:
            self.store.wait([f"posted/{key}"], within)
        except dist.DistStoreError:
            return False
        return True


@dataclass(frozen=True)
class RankOutcome:
    """The outcome of a function in one process: a value, an error, or the process's death."""

    value: Any = None
    error: Exception | None = None
    exitcode: int | None = None

    def unwrap(self) -> Any:
        """The value. Raises the function's error, or AssertionError where the process died."""
        if self.error is not None:
            raise self.error
        assert self.exitcode is None, f"the process died with exit code {self.exitcode}"
        return self.value


@dataclass(frozen=True)
class _Task:
    run: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    gloo: bool


class Crew:
    """`size` processes that run functions together, one after the other; `with Crew(2) as crew: ...`.

    fresh: whether each is an interpreter of its own, with the environment as it is when it starts. On Linux others are
        forked from one process, which has imported torch once for all of them, with the environment of its start.
    """

    def __init__(self, size: int, threads: int = 1, *, fresh: bool = False) -> None:
        self.size = size
        self.threads = threads
        self._context: SpawnContext | ForkServerContext = SpawnContext()
        if sys.platform == "linux" and not fresh:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([__name__])  # with it torch
        self._store = serve_store("127.0.0.1")
        self._workers: list[tuple[BaseProcess, Connection] | None] = [None] * size
        self._runs = 0

    def run(
        self,
        functions: Callable[..., Any] | Sequence[Callable[..., Any]],
        *args: Any,
        gloo: bool = False,
        timeout: float = 60.0,
    ) -> list[RankOutcome]:
        """Call `function(place, *args)` in every process, or `functions[rank]` in each, and wait for all.

        gloo: within torch.distributed's default process group. Raises TimeoutError (all stacks are on stderr then).
        """
        each = [functions] * self.size if callable(functions) else list(functions)
        assert len(each) == self.size
        deadline = time.monotonic() + timeout
        missing = [rank for rank, worker in enumerate(self._workers) if worker is None]
        for rank in missing:
            self._workers[rank] = self._start(rank)
        self._collect(missing, deadline)  # what they say when they are ready, so that all begin together
        for worker, function in zip(self._workers, each, strict=True):
            assert worker is not None, "a process died before it was ready"
            worker[1].send(_Task(self._runs, function, args, gloo))
        self._runs += 1
        return self._collect(range(self.size), deadline)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        hired = [(rank, worker[1]) for rank, worker in enumerate(self._workers) if worker]
        for _, pipe in hired:
            pipe.close()  # all at once: a process that has torch takes a while to end
        for rank, _ in hired:
            self._end(rank, kill=error is not None)

    def _start(self, rank: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(rank, self.size, self.threads, self._store.port, theirs))
        process.start()
        theirs.close()
        return process, ours

    def _collect(self, ranks: Sequence[int], deadline: float) -> list[RankOutcome]:
        outcomes: dict[int, RankOutcome] = {}
        while len(outcomes) < len(ranks):
            workers = {rank: self._workers[rank] for rank in ranks if rank not in outcomes}
            pending = {worker[1]: rank for rank, worker in workers.items() if worker}
            ready = wait(list(pending), max(0.0, deadline - time.monotonic()))
            if not ready:
                for rank in pending.values():
                    self._end(rank, kill=True)
                raise TimeoutError(f"ranks {sorted(pending.values())} of {self.size} did not end in time")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                outcomes[pending[pipe]] = self._receive(pending[pipe], pipe)
        return [outcomes[rank] for rank in ranks]

    def _receive(self, rank: int, pipe: Connection) -> RankOutcome:
        try:
            return pipe.recv()
        except EOFError:
            return RankOutcome(exitcode=self._end(rank, kill=False))

    def _end(self, rank: int, *, kill: bool) -> int | None:
        worker, self._workers[rank] = self._workers[rank], None
        assert worker is not None
        process, pipe = worker
        if kill and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGABRT)  # faulthandler prints every thread's stack
        pipe.close()
        process.join(30)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode


def run_processes(
    function: Callable[..., Any], size: int, *args: Any, gloo: bool = False, threads: int = 1, timeout: float = 60.0
) -> list[Any]:
    """Run `function(place, *args)` in each of `size` new processes, and return the values; raises the first one's
    error."""
    with Crew(size, threads) as crew:
        return [outcome.unwrap() for outcome in crew.run(function, *args, gloo=gloo, timeout=timeout)]


def _serve(rank: int, size: int, threads: int, port: int, pipe: Connection) -> None:
    faulthandler.enable()
    warnings.simplefilter("error")  # as in the tests' own process
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    pipe.send(RankOutcome())
    with contextlib.suppress(EOFError):  # the crew is dismissed
        while True:
            task: _Task = pipe.recv()
            pipe.send(_perform(task, ContractRank(rank, size, dist.PrefixStore(f"run/{task.run}", store))))


def _perform(task: _Task, place: ContractRank) -> RankOutcome:
    torch.manual_seed(place.rank)
    try:
        if task.gloo:
            store = dist.PrefixStore("gloo", place.store)
            dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=TIMEOUT)
        return RankOutcome(value=task.function(place, *task.args))
    except Exception as error:  # raised again by `unwrap`, in the test's own process
        if add_note := getattr(error, "add_note", None):  # from Python 3.11 on
            add_note(f"in rank {place.rank}:\n{traceback.format_exc()}")
        return RankOutcome(error=error)
    finally:
        if task.gloo and dist.is_initialized():
            dist.destroy_process_group()
