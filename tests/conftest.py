"""Makes `harness` importable from every folder of tests, hides GPUs, heeds interrupts also where the tests run below a
shell that ignores them (in its background), and keeps hypothesis free of time limits."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: many processes share few cores here

from harness import hide_gpus
from hypothesis import settings

settings.register_profile("ffdist", deadline=None, derandomize=True)
settings.load_profile("ffdist")
hide_gpus()
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
