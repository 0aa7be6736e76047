"""torchrun's agent, with ffdist's count of restarts; and what a rank tells it.

torchrun counts restarts, however much was learned between them, and starts anew what would fail again. By this agent a
new snapshot begins the count anew, and an error of the job's own ends the run at once.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ffdist.errors import ConfigError, exit_status
from ffdist.exiting import end_process, end_process_now, end_with_parent, hear_of_children
from ffdist.loading import import_seconds, loading
from ffdist.process_stat import ignores, is_alive
from ffdist.runtime.interrupts import leave_at_once

VARIABLE = "FFDIST_AGENT"
"""Names the file in which ranks tell the agent of their node something, a line of JSON each."""
LOOPBACK = "127.0.0.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def notify_agent(**said: Any) -> None:
    """run: the run's folder. final: the run is not to be started again. Of no effect under torchrun's own agent."""
    if file := os.environ.get(VARIABLE):
        with suppress(OSError), open(file, "a") as log:
            log.write(json.dumps(said) + "\n")


def end_with_agent() -> None:
    """This rank ends with torchrun's agent, whose death it would not notice for minutes. To be called before anything
    that takes long: one that has died by then is known only where it was ffdist's own."""
    end_with_parent(os.getppid())
    agent = os.environ.get(VARIABLE, "").removeprefix("/proc/").partition("/")[0]
    if agent.isdigit() and not is_alive(int(agent)):
        os._exit(1)


def check_agent() -> None:
    """Raises ConfigError where torchrun's agent ignores SIGCHLD, which is inherited from whoever has started it: the
    system does not tell it how a rank has ended, so that it would take each end for a success, and end with 0. At this
    process's end it is ended, which it tells as a failure. Of no effect outside torchrun."""
    if {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} <= os.environ.keys() and ignores(os.getppid(), signal.SIGCHLD):
        atexit.register(stop_agent, signal.SIGTERM)
        raise ConfigError(
            "torchrun does not hear how its ranks end",
            where=f"process {os.getppid()}",
            expected="SIGCHLD as the system has it",
            got="SIGCHLD ignored, as by whoever started it",
            remedy="env --default-signal=CHLD torchrun ...; or launch/torchrun.sh, which sees to it",
        )


def agent_imports() -> float:
    """Seconds that the agent has spent on imports before it started this rank; 0 without one that says it."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        with open(os.environ[VARIABLE]) as log:
            return float(json.loads(log.readline())["imports"])
    return 0.0


def stop_agent(number: int) -> None:
    """All ranks have ended, since one was told to stop by this signal: so is torchrun's own agent, which would take
    their end for a failure, and start them anew; ffdist's knows better, by their statuses. 0, or outside torchrun: of
    no effect."""
    own = VARIABLE in os.environ
    if {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} <= os.environ.keys() and not own and number and os.getppid() > 1:
        with suppress(OSError):
            os.kill(os.getppid(), number)


@contextmanager
def counting() -> Iterator[None]:
    """A context in which what torchrun starts is watched by this agent, where this version of torch lets it be."""
    from torch.distributed.launcher import api

    with log_file() as file:
        os.environ[VARIABLE] = file
        before = api.LocalElasticAgent
        api.LocalElasticAgent = agent_of(before, Path(file))  # type: ignore[misc] - there is no other way in
        try:
            yield
        finally:
            api.LocalElasticAgent = before  # type: ignore[misc]


@contextmanager
def on_loopback_alone() -> Iterator[None]:
    """A context in which the two stores of a torchrun of one host alone, each of which would listen on every interface,
    listen on the loopback: whoever reaches one may read and end the run."""
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as backend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler as Handler

    from ffdist.transport.stores import serve_store

    def open_store(host: str, port: int, *, is_master: bool, **more: Any) -> TCPStore:
        return serve_store(LOOPBACK) if is_master else TCPStore(host, port, is_master=False, **more)

    before = backend.TCPStore, Handler._create_tcp_store_server
    backend.TCPStore = open_store  # type: ignore[misc] - there is no other way in
    Handler._create_tcp_store_server = lambda *_: serve_store(LOOPBACK)  # type: ignore[method-assign]
    try:
        yield
    finally:
        backend.TCPStore, Handler._create_tcp_store_server = before  # type: ignore[misc, method-assign]


@contextmanager
def log_file() -> Iterator[str]:
    """A file that the ranks of this process can open; on Linux without a name on disk, so that nothing stays behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ffdist-agent")
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="ffdist-agent-") as file:
        yield file.name


def agent_of(base: type[Any], file: Path) -> type[Any]:
    """torchrun's agent of a node, `base`, which looks at what its ranks have written when they fail."""
    from torch.distributed.elastic.agent.server.api import WorkerState
    from torch.distributed.elastic.multiprocessing import SignalException

    from ffdist.runtime.supervise import Budget

    class Agent(base):
        budget: Budget | None = None

        def _monitor_workers(self, worker_group: Any) -> Any:
            result = super()._monitor_workers(worker_group)
            if number := stop_signal_of(result.failures):
                raise SignalException(f"a rank was told to stop by {number.name}", sigval=number)
            if result.state in (WorkerState.UNHEALTHY, WorkerState.FAILED) and hasattr(self, "_remaining_restarts"):
                self._count(worker_group.spec.max_restarts)
            return result

        def _count(self, max_restarts: int) -> None:
            """Set torchrun's own count of restarts that are left, `_remaining_restarts`, by snapshots made since."""
            messages = [json.loads(line) for line in file.read_text().splitlines()]
            if any(said.get("final") for said in messages):
                self._remaining_restarts = 0
                return
            run = next((Path(said["run"]) for said in reversed(messages) if "run" in said), None)
            if run is None:
                return
            if self.budget is None:
                self.budget = Budget(run, max_restarts)
                self.budget.seen = next((said["newest"] for said in messages if "newest" in said), None)
                self.budget.spent = max_restarts - self._remaining_restarts
            self.budget.spend()
            self._remaining_restarts = max(0, min(max_restarts, max_restarts + 1 - self.budget.spent))

    return Agent


def stop_signal_of(failures: Mapping[int, Any]) -> signal.Signals | None:
    """The signal that ranks were told to stop by, where none has failed otherwise: it came from elsewhere, as the agent
    ends others only when it has seen a failure."""
    codes = [failure.exitcode for failure in failures.values()]
    numbers = {-code if code < 0 else code - 128 for code in codes}
    return signal.Signals(min(numbers)) if numbers and numbers <= set(SIGNALS) else None


def main(argv: Sequence[str]) -> None:
    """torchrun with this agent: its arguments are torchrun's. It leaves no empty folder.

    Told to stop it ends quietly, with the status that shells give such an end: 130 for Ctrl-C, 143 for SIGTERM, 129 for
    SIGHUP. What whoever started it wants ignored (nohup) is ignored.
    """
    hear_of_children()
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, leave_at_once)  # until torchrun has started something, and has its own handlers
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in heeded)
    with loading():
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing import SignalException

        from ffdist.transport.listeners import allow_many_descriptors
    allow_many_descriptors()
    args = run.parse_args([*argv])
    alone = args.standalone and args.local_addr is None
    try:
        with counting(), on_loopback_alone() if alone else nullcontext():
            notify_agent(imports=import_seconds())
            here = [f"--local-addr={LOOPBACK}"] if alone else []
            run.main([f"--log-dir={os.devnull}", *here, *argv])
    except SignalException as stopped:
        # where the signal came while the ranks were ended, torch's threads that read what they say never end, and
        # Python would wait for them
        end_process_now(exit_status(stopped.sigval))


if __name__ == "__main__":
    main(sys.argv[1:])
    end_process(0)
