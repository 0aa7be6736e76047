"""Makes `harness` importable from every folder of tests, hides GPUs, heeds interrupts also where the tests run below a
shell that ignores them (in its background), keeps hypothesis free of time limits, shares the tests out among workers,
and leaves no weight to chance."""

from __future__ import annotations

import os
import random
import signal
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: many processes share few cores here

import numpy as np
import pytest
import torch
from harness import SITE, hide_gpus
from hypothesis import settings
from workers import Scheduling

settings.register_profile("ffdist", deadline=None, derandomize=True)
settings.load_profile("ffdist")
hide_gpus()
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts compiles all of ffdist anew
os.environ["PYTHONPATH"] = os.pathsep.join([SITE, *filter(None, [os.environ.get("PYTHONPATH")])])
STATE = tempfile.TemporaryDirectory(prefix="ffdist-tests-")
os.environ["XDG_STATE_HOME"] = STATE.name  # what tests may run is no matter of the tester's own list
os.environ.pop("COLUMNS", None)  # how wide tables are is no matter of the tester's terminal
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(Scheduling())


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test draws the same numbers each time, alone or among others; its fixtures, too."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    seed()
