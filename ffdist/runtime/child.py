"""The first lines of a stage's process: it can be told to stop, and ends with who started it, before torch is there,
where it is not forked from one that has it.

`START` is its program; this module imports nothing that takes long.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ffdist.exiting import end_with_parent, name_process
from ffdist.loading import loading
from ffdist.payload import Script
from ffdist.runtime.heartbeat import Activity, beating, stacks_to
from ffdist.runtime.interrupts import SIGNALS, handle_in_thread
from ffdist.runtime.world import World

START = (
    "import sys; from multiprocessing.connection import Connection; line = Connection(int(sys.argv[1])); "
    "sys.path[:] = line.recv(); from ffdist.runtime.child import main; main(line)"
)

WORKER, FORK_SERVER = "worker-", "fork-server"
"""What a worker's process is called by `ps` and `top`, before its number, and what it is forked from."""


class ProcessStart(NamedTuple):
    """The first message to a stage's process, before the job."""

    world: World
    store: str
    """The file through which the stages meet."""
    parent: int
    """The process that it ends with."""
    argv: Sequence[str]
    script: Script | None


class LauncherPipe:
    """A stage's end of the line to the process that has started it: orders come in, events go out, in any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # the stage, its heartbeat and its signals report from threads of their own: messages must not mix
        self._sending = threading.Lock()
        self.stop = threading.Event()
        """Set when the run is to end early."""

    def report(self, event: dict[str, Any]) -> None:
        """Send an event, JSON-able; where the launcher is gone, this process ends."""
        with self._sending:
            try:
                self._connection.send_bytes(json.dumps(event).encode())
            except OSError:  # nobody is there any more
                os._exit(1)

    def obey(self) -> None:
        """Obey orders from now on, in a thread: every order is to stop; and this process ends with the one that gives
        them."""
        threading.Thread(target=self._obey, name="ffdist line", daemon=True).start()

    def _obey(self) -> None:
        try:
            while True:
                self._connection.recv_bytes()
                self.stop.set()
        except (EOFError, OSError):
            os._exit(1)


def main(connection: Connection) -> None:
    """A worker's process, from here to its end."""
    line = LauncherPipe(connection)
    handle_in_thread(lambda number: line.report({"event": "signal", "number": number}))
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # whoever started the stages decides what they do
    # blocked by the launcher until there are handlers: see `start_worker`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    stacks_to()  # who asks for stacks asks all stages, those that still load torch too
    try:
        start: ProcessStart = connection.recv()
        end_with_parent(start.parent)
        name_process(f"{WORKER}{start.world.rank}")
        job = connection.recv_bytes()
    except (EOFError, OSError):
        sys.exit(1)
    line.obey()
    activity = Activity()
    beating(lambda what: line.report({"event": "beat", "what": what}), activity)
    sys.argv[:] = start.argv
    with loading():
        from ffdist.runtime.worker_main import run_child

    run_child(start, job, line, activity)
