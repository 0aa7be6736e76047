"""A worker's process, once it has its job: it makes it, trains, and tells what happens."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist

from ffdist.errors import FfdistError, StageError, TransportError, described
from ffdist.exiting import end_process, end_process_now
from ffdist.payload import Payload, unpack
from ffdist.runtime.child import LauncherPipe, ProcessStart
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.job import Job
from ffdist.runtime.run_worker import run_worker
from ffdist.transport.process_group import LOOPBACK

MakeJob = Callable[[], Job]
"""Picklable; called in each process, so that no data travels to it."""
ProcessMain = Callable[[ProcessStart, LauncherPipe, Activity], None]
"""What a worker's process does; picklable."""
MAX_WAIT = timedelta(hours=1)
"""How long torch may wait in a store; who waits for a worker looks at the clock itself, and at the worker."""
DETAILS = ("what", "where", "expected", "got", "remedy")
"""The details of an error, from one process to another."""


def run_child(start: ProcessStart, data: bytes, line: LauncherPipe, activity: Activity) -> NoReturn:
    """Run until the stream stops. What stops it otherwise is reported, and the process ends with status 1."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    try:
        unpack(Payload(data, start.script))(start, line, activity)
    except FfdistError as error:
        line.report(error_event(error))
        if isinstance(error, TransportError):  # a peer was lost: the next attempt waits for the end of this process
            end_process_now(1)
        end_process(1)
    except Exception as error:  # a defect, or torch's: its traceback goes to stderr, a line of it to the launcher
        traceback.print_exc()
        line.report(error_event(StageError(f"worker {start.world.rank} failed", got=described(error))))
        end_process(1)
    line.report({"event": "done"})
    end_process(0)


@dataclass(frozen=True)
class TrainingMain:
    """The main function of a process that trains its worker's part of a job."""

    make_job: MakeJob

    def __call__(self, start: ProcessStart, line: LauncherPipe, activity: Activity) -> None:
        store = dist.FileStore(start.store, start.world.size)
        store.set_timeout(MAX_WAIT)
        tell = lambda event: line.report(event.to_json())  # noqa: E731
        ready = lambda: line.report({"event": "ready"})  # noqa: E731
        run_worker(self.make_job, start.world, store, tell, stop=line.stop, activity=activity, ready=ready)


def error_event(error: FfdistError) -> dict[str, Any]:
    """An error as an event for the launcher; `process_monitor.error_from_event` is the inverse."""
    values = {name: error.details[name] for name in DETAILS}  # with the settings still to be spelled
    return {
        "event": "error",
        "type": type(error).__name__,
        **{name: None if value is None else str(value) for name, value in values.items()},
    }
