"""TensorBoard's event files, in RUN/tensorboard."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.trackers.base import Tracker, missing_package_error

FOLDER = "tensorboard"


class WriterThreadHook:
    """Keeps a traceback of TensorBoard's writing thread, which ends where its disk is full, off the terminal: the next
    write raises that OSError again. It stays in place, as the thread may be ended after its tracker."""

    def __init__(self) -> None:
        self.before = threading.excepthook

    def install(self) -> None:
        """Put the hook in front of the one that is there; once."""
        if threading.excepthook is not self:
            self.before, threading.excepthook = threading.excepthook, self

    def __call__(self, raised: threading.ExceptHookArgs) -> None:
        of_writer = type(raised.thread).__module__.partition(".")[0] == "tensorboard"
        if not (of_writer and isinstance(raised.exc_value, OSError)):
            self.before(raised)


HOOK = WriterThreadHook()


class TensorBoard(Tracker):
    """TensorBoard reads RUN as its folder of logs. A run that goes on hides what it had written after its snapshot."""

    name = "tensorboard"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(run, settings)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package_error(self.name, "tensorboard", error) from error
        self.make = SummaryWriter
        self.writer = None

    def begin(self, step: int) -> None:
        self.close()
        HOOK.install()
        self.writer = self.make(str(self.run / FOLDER), purge_step=step + 1 if step else None)
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.settings.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", step)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()

    def end(self, reason: str) -> None:
        self.close()

    def close(self) -> None:
        writer, self.writer = self.writer, None
        if writer:
            writer.close()
