"""A run that is killed at moments that a seed has drawn ends by itself, with the bits of one that nobody disturbs."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import pytest
from forked import run

from ffdist.bench.fault_schedule import LAST, MOMENTS, schedule
from ffdist.bench.victims import RAY_ACTOR
from ffdist.cli.faults import main
from ffdist.errors import Interrupted
from ffdist.runtime.interrupts import signals_restored

SEED = 33
pytestmark = [pytest.mark.distributed, pytest.mark.measures]


def test_rays_workers_are_found_by_the_name_of_their_actors_class() -> None:
    from ffdist.runtime.ray_actor import WorkerActor

    assert f"ray::{WorkerActor.__name__}" == RAY_ACTOR


def test_a_seed_draws_every_moment_and_both_victims_and_always_the_same() -> None:
    faults = schedule(50, 0)
    assert faults == schedule(50, 0) != schedule(50, 1)
    assert {fault.moment for fault in faults} == set(MOMENTS)
    assert {fault.victim for fault in faults} == {"worker", "launcher"}
    assert {fault.victim for fault in schedule(50, 0, nodes=True)} == {"worker", "launcher", "node"}
    assert {fault.victim for fault in schedule(50, 0, servers=True)} == {"worker", "launcher", "fork server"}
    assert [fault.moment for fault in faults[-LAST:]] == ["last commit"] * LAST


def test_asked_to_stop_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop() -> None:
        while not any(tmp_path.glob("ffdist-faults-*/tmp")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with signals_restored():
        Thread(target=stop, daemon=True).start()
        with pytest.raises(Interrupted) as told:
            main("faults", ["--kills", "1"])
    assert told.value.status == 143
    assert not any(tmp_path.iterdir())


def test_a_run_that_is_killed_equals_one_that_is_not_and_leaves_nothing(tmp_path: Path) -> None:
    """What has started the workers at a commit, and a worker at the last one."""
    assert [fault.victim for fault in schedule(2, SEED, servers=True)] == ["launcher", "worker"]
    words = ["faults", "--kills", "2", "--seed", str(SEED), "--folder", str(tmp_path / "runs"), "--json"]
    done = run([sys.executable, "-m", "ffdist", "bench", *words])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["equal"], found["left"], found["of_launcher"]) == (True, 0, 1)
