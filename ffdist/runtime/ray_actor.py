"""One worker's process on a Ray cluster. It lives through as many attempts of a run as it survives."""

from __future__ import annotations

import fcntl
import os
import platform
import queue
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import ray

from ffdist.loading import loading

with loading():  # in the actor's process it is here that torch is imported
    import torch.distributed as dist

    from ffdist import digests
    from ffdist.events import EdgesOpened, RunEvent
    from ffdist.notes import passed_to
    from ffdist.runtime.heartbeat import Activity
    from ffdist.runtime.interrupts import SIGNALS, handle_in_thread
    from ffdist.runtime.job import Job
    from ffdist.runtime.ray_store import Address, join_store
    from ffdist.runtime.run import SETTINGS
    from ffdist.runtime.run_worker import run_worker
    from ffdist.runtime.worker_main import MAX_WAIT
    from ffdist.runtime.world import World
    from ffdist.transport import transport_of
    from ffdist.transport.stores import serve_store

BACKLOG = 1000
"""Events and notes that a stage holds for the driver, at most; then it waits."""
NOTE = "note"
"""What stands among the events for a note of the actor's process."""
CONCURRENCY = 5
"""Methods of an actor that run at the same time: `run`, `events`, `stop`, `beat`, and `reusable` or `leave`."""
LEAVE_SECONDS = 0.2
SIOCGIFADDR = 0x8915


class ActorInfo(NamedTuple):
    """The place of a worker's actor, and what it sees there."""

    address: str
    node: str
    """Ray's id of the node."""
    pid: int
    versions: dict[str, str]
    run: str | None
    """sha256 of the settings in the run folder; None where there are none."""
    data: str | None
    """sha256 of the data set's manifest; None where there is none."""


class WorkerActor:
    """A worker; the driver calls `prepare` and `run` for each attempt, and `events` and `stop` meanwhile."""

    def __init__(self, rank: int, folder: str) -> None:
        """`folder`: the driver's, so that relative paths mean the same here where the two share it."""
        self._rank = rank
        self._address = ray.util.get_node_ip_address()
        if Path(folder).is_dir():
            os.chdir(folder)
        if interface := interface_of(self._address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        self._kinds: list[str] = []
        self._activity = Activity()
        self._stop_signal = 0
        self._handle_signals()
        passed_to(self._note)  # Ray writes an actor's stderr to files of its own

    def __repr__(self) -> str:
        return f"stage-{self._rank}"

    def prepare(self, world: World, run: Path | None, data: str) -> ActorInfo:
        """Get ready for an attempt."""
        self._world, self._stop, self._activity = world, Event(), Activity()
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(BACKLOG)
        return actor_info(self._address, run, data)

    def host_store(self) -> Address:
        """Make the store in which the ranks of this attempt meet, and return its address; rank 0 is asked."""
        self._hosted = serve_store(self._address)
        return self._address, self._hosted.port

    def run(self, make_job: Callable[[], Job], meeting: Address | Any) -> None:
        """Run this worker until the stream stops. Raises what stopped it otherwise."""
        try:
            self._run(make_job, meeting)
        finally:
            self._events.put(None)
            if dist.is_initialized() and self.reusable():
                dist.destroy_process_group()

    def _run(self, make_job: Callable[[], Job], meeting: Address | Any) -> None:
        store = join_store(meeting, MAX_WAIT)
        run_worker(
            make_job, self._world, store, self._report, stop=self._stop, activity=self._activity, opened=self._opened
        )

    def _handle_signals(self) -> None:
        """A signal to this process ends the whole run, after a snapshot: the driver hears of it by `beat`."""
        if threading.current_thread() is not threading.main_thread():
            return
        handle_in_thread(self._heard)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # Ray starts its processes with SIGINT blocked

    def _heard(self, number: int) -> None:
        self._stop_signal = self._stop_signal or number

    def beat(self) -> tuple[str, int]:
        """Return what it is doing, and the number of the signal by which it is to stop, or 0; any answer says that it
        lives."""
        return str(self._activity), self._stop_signal

    def _opened(self, kinds: Sequence[str]) -> None:
        self._kinds = list(kinds)
        self._report(EdgesOpened(self._kinds))

    def events(self) -> list[dict[str, Any] | None]:
        """The events and notes since the last call, at least one, in JSON's form; None is the last."""
        heard = [self._events.get()]
        while heard[-1] is not None and not self._events.empty():
            heard.append(self._events.get())
        return heard

    def _report(self, event: RunEvent) -> None:
        self._events.put(event.to_json())

    def _note(self, text: str, failed: bool) -> None:
        self._events.put({"event": NOTE, "text": text, "failed": failed})

    def stop(self) -> None:
        """End the run early, with a snapshot; called on rank 0, which has the source."""
        self._stop.set()

    def leave(self) -> None:
        """End this process, as soon as it has answered; for where Ray ends nobody."""
        threading.Timer(LEAVE_SECONDS, os._exit, [0]).start()

    def reusable(self) -> bool:
        """True if a new attempt may begin in this process: NCCL and its like cannot be trusted once a peer was
        lost."""
        return not any(transport_of(kind).on_device for kind in self._kinds)


def actor_info(address: str, run: Path | None, data: str) -> ActorInfo:
    """This process's view of its place."""
    versions = {"Python": platform.python_version()} | {name: version(name) for name in ("ffdist", "torch")}
    node, settings = ray.get_runtime_context().get_node_id(), run and digest(run / SETTINGS)
    return ActorInfo(address, node, os.getpid(), versions, settings, digest(Path(data) / "manifest.json"))


def digest(path: Path) -> str | None:
    """sha256 of a file; None where there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return digests.sha256(file)


def interface_of(address: str) -> str | None:
    """The network interface with this address: gloo wants its name."""
    if ":" in address:
        return interface_of_ipv6(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None


def interface_of_ipv6(address: str) -> str | None:
    wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # not Linux, or no IPv6
        return None
    return next((line.split()[5] for line in lines if line.split()[0] == wanted), None)
