"""torch.profiler around some batches of a stage."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, supported_activities

from ffdist.device import queues
from ffdist.pipeline.message import Message, TrainBatch

ALONE = threading.Lock()
"""There is one profiler a process: of stages in threads of one, each has its turn."""


class TorchProfile:
    """`batches` batches from number `first` on, or from when the profiler is free; then `path` is a trace of them, in
    Chrome's format, that Perfetto opens."""

    def __init__(self, path: Path | None = None, first: int = 0, batches: int = 0, device: torch.device | None = None):
        self.path = path
        self.first = first
        self.left = batches
        self.step = 0
        accelerator = device is not None and queues(device)
        self.kinds = [kind for kind in supported_activities() if kind == ProfilerActivity.CPU or accelerator]
        self.profiler: profile | None = None

    def meet(self, message: Message) -> None:
        """Called before a message is handled: start or stop the profiler where that is due."""
        if not isinstance(message, TrainBatch) or self.left < 1 or message.step < max(self.first, self.step + 1):
            return
        if self.profiler is None and ALONE.acquire(blocking=False):
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it tells each start, and that there is no GPU
            self.profiler = profile(activities=self.kinds)
            self.profiler.start()
        elif self.profiler is not None:
            self.left -= 1
            if not self.left:
                self.end()
        self.step = message.step

    def end(self) -> None:
        """End it where it is at work: write what it has seen."""
        if self.profiler is None:
            return
        profiler, self.profiler, self.left = self.profiler, None, 0
        try:
            profiler.stop()
            assert self.path
            self.path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self.path))
        finally:
            ALONE.release()
