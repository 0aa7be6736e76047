"""Makes `harness` importable from every folder of tests, hides GPUs, heeds interrupts and hang-ups also where the tests
run below a shell that ignores them (in its background, or by `nohup`), keeps hypothesis free of time limits, shares the
tests out among workers, leaves no weight to chance, and lets each test's own modules go with it."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import DupFd
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: many processes share few cores here

import pytest
from forked import fork_context, serve_here
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
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # below `nohup`
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(Scheduling())
    if not config.getoption("numprocesses", None):  # a process that runs tests
        fork_context()
        ensure_running()  # it imports torch while this one does


def seed() -> None:
    import numpy as np  # here, as with xdist the process that deals the tests out has no use for them
    import torch

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


@pytest.fixture(scope="session", autouse=True)
def processes_are_forked() -> Iterator[None]:
    """Workers that tests start from this process, members of pools, and programs of `forked`, need no interpreter each:
    that would be half of the suite's time. All come of one that has torch."""
    from ffdist.bench.harness import resumed, worker_pool
    from ffdist.runtime.fork_server import ForkServer, use_fork_server

    here, there = socket.socketpair()
    process = fork_context().Process(target=serve_here, args=(DupFd(there.fileno()),))
    process.start()
    there.close()
    server = ForkServer(process.pid, here)
    use_fork_server(server)
    with pytest.MonkeyPatch.context() as patch:
        for module in (worker_pool, resumed):  # what these spawn
            patch.setattr(module, "multiprocessing", SimpleNamespace(get_context=lambda _: fork_context()))
        yield
    server.end()
    process.join()


@pytest.fixture(autouse=True)
def own_modules_go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A file that a test wrote and that was imported is not found by the next one, which may use the same name."""
    path = [*sys.path]
    yield
    sys.path[:] = path
    made = str(tmp_path_factory.getbasetemp())
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(made):
            del sys.modules[name]
