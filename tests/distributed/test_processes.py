"""Whatever ends a run of processes, and wherever it was started: none of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest
from forked import run
from harness import python_path
from jobs import QUIET, DigitsJob
from stages import children
from torch import nn

from ffdist import SFF, Pipeline, open_data
from ffdist.errors import ConfigError, StageError
from ffdist.runtime.job import Job
from ffdist.runtime.processes import run_processes
from ffdist.runtime.worker_main import TrainingMain

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = set(children(os.getpid()))
    yield
    assert set(children(os.getpid())) <= before


def test_a_pipeline_of_processes_is_fitted_in_any_thread() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    pipeline = Pipeline(network, SFF(), stages=2, blocks=[3, 2], launcher="processes", threads=1)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(pipeline.fit, open_data("digits"), epochs=1, progress=False).result()
    assert result.reason == "finished"


def test_asked_twice_to_stop_it_ends_at_once() -> None:
    def interrupt_twice(event: object) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.4)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_processes(TrainingMain(DigitsJob(settings={"stages": 2})), 2, interrupt_twice)


@dataclass(frozen=True)
class HangingUp(DigitsJob):
    """A job in whose making each process gets SIGHUP, as at the end of a terminal."""

    def __call__(self) -> Job:
        signal.raise_signal(signal.SIGHUP)
        return super().__call__()


def test_what_is_ignored_below_nohup_does_not_stop_the_run_where_workers_get_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run_processes(TrainingMain(HangingUp(settings={"stages": 2})), 2, QUIET)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.reason == "finished"


class Unsendable(DigitsJob):
    def __reduce__(self) -> Any:
        raise PicklingError("holds a lock")


def test_a_job_that_cannot_be_sent_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"cannot be sent(.|\n)*holds a lock"):
        run_processes(TrainingMain(Unsendable()), 2, QUIET)


@dataclass(frozen=True)
class Dying:
    """A job whose making ends stage 1's process."""

    how: str

    def __call__(self) -> Job:
        if Path("/proc/self/comm").read_text().strip() == "worker-1":
            os.write(2, b"the last words\n")
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)
        return DigitsJob(settings={"stages": 2})()


@pytest.mark.parametrize(("how", "told"), [("killed", "SIGKILL"), ("left", "exit status 7")])
def test_a_stage_that_dies_while_it_starts_is_an_error_with_what_it_said(how: str, told: str) -> None:
    with pytest.raises(StageError, match=rf"worker 1 died(.|\n)*{told}(.|\n)*the last words"):
        run_processes(TrainingMain(Dying(how)), 2, QUIET)


SCRIPT = """
import sys
from torch import nn
from ffdist import SFF, Pipeline
class Own(SFF): pass
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 16))
pipeline = Pipeline(network, {rule}(), stages=1, launcher="processes", threads=1)
print(pipeline.fit("digits", epochs=1, progress=False).reason)
"""


def script(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": python_path()}
    return run([sys.executable, *words], input=stdin, env=env, timeout=240)


def test_a_script_from_stdin_trains_where_what_it_passes_can_be_imported() -> None:
    done = script("-", stdin=SCRIPT.format(rule="SFF"))
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr


def test_a_script_without_a_guard_is_refused_where_stages_must_load_it(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT.format(rule="Own"))
    done = script(str(tmp_path / "s.py"))
    assert done.returncode == 1
    assert "ConfigError: the script starts the run again" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr
    (tmp_path / "s.py").write_text(
        SCRIPT.format(rule="Own").replace("print(", "if __name__ == '__main__':\n    print(")
    )
    done = script(str(tmp_path / "s.py"))
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr


def test_what_only_a_session_defines_is_refused() -> None:
    done = script("-c", SCRIPT.format(rule="Own"))
    assert done.returncode == 1
    assert "Own is defined in an interactive session" in done.stderr
