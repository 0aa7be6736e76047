"""When a run begins again after a loss, when it does not, and who keeps others out of its folder meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace

import pytest
from forked import Forked
from jobs import QUIET, DigitsJob

from ffdist.errors import ConfigError, DivergedError, PeerLostError, SnapshotError, StageError, StageLostError
from ffdist.events import ProgressMade, RunEvent, RunRestarted
from ffdist.pipeline.message import Snapshot
from ffdist.runtime.agent import agent_of, notify_agent, stop_signal_of
from ffdist.runtime.folder import locked
from ffdist.runtime.outcome import Result
from ffdist.runtime.run import read_settings, write_settings
from ffdist.runtime.supervise import AttemptLost, supervise, verdict
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import SnapshotStore


def commit(run: Path, step: int) -> None:
    folder = run / "snapshots" / f"step-{step:09d}-epoch-00001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()


def lives(run: Path, ends: Iterable[int | None], max_restarts: int) -> tuple[list[int], list[RunEvent]]:
    """Attempts of which each makes the snapshot of a step, or none, and is lost: their numbers, and what was heard."""
    made, heard, left = list[int](), list[RunEvent](), list(ends)

    def attempt(number: int) -> Result:
        made.append(number)
        if not left:
            return Result("finished")
        if (step := left.pop(0)) is not None:
            commit(run, step)
        raise AttemptLost(StageLostError("worker 1 died"), ["stage 1 died"])

    supervise(attempt, heard.append, run=run, max_restarts=max_restarts)
    return made, heard


def test_losses_that_are_spread_over_a_run_do_not_end_it(tmp_path: Path) -> None:
    made, heard = lives(tmp_path, [*range(1, 60), None], max_restarts=1)
    assert made == list(range(61))
    assert all(isinstance(event, RunRestarted) and event.of == 1 for event in heard)
    assert len((tmp_path / "restarts.log").read_text().splitlines()) == 60


@pytest.mark.parametrize("before", [[], [1, 2]])
def test_a_run_that_dies_without_a_new_snapshot_ends_with_its_cause(before: list[int], tmp_path: Path) -> None:
    made = list[int]()

    def attempt(number: int) -> Result:
        made.append(number)
        if number < len(before):
            commit(tmp_path, before[number])
        raise AttemptLost(StageLostError("worker 1 died"), ["stage 1 died"])

    with pytest.raises(StageLostError, match="worker 1 died"):
        supervise(attempt, QUIET, run=tmp_path, max_restarts=3)
    assert len(made) == len(before) + 4


def test_what_would_come_again_is_not_tried_again() -> None:
    lost, own = PeerLostError("the sender died"), DivergedError("block 1")
    assert verdict([lost, own]) is own
    assert verdict([lost, refused := StageError("a block failed")]) is refused
    assert isinstance(verdict([lost, StageLostError("worker 1 died")]), AttemptLost)


def test_a_snapshot_begins_torchruns_count_anew_and_an_error_of_the_jobs_own_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    told.touch()
    monkeypatch.setenv("FFDIST_AGENT", str(told))

    class Base:
        _remaining_restarts = 2

    agent = agent_of(Base, told)()

    def fails() -> int:
        """How many restarts torchrun sees; where there are some it takes one."""
        agent._count(2)
        left = agent._remaining_restarts
        agent._remaining_restarts -= bool(left)
        return left

    assert fails() == 2  # before anything was told torchrun's own count holds
    notify_agent(run=str(tmp_path), newest=None)
    assert fails() == 1
    for step in (1, 2, 3):
        commit(tmp_path, step)
        assert fails() == 2
    assert [fails(), fails(), fails()] == [2, 1, 0]
    commit(tmp_path, 4)
    notify_agent(final=True)
    assert fails() == 0


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([143, 143], signal.SIGTERM),
        ([-15], signal.SIGTERM),
        ([130], signal.SIGINT),
        ([143, 1], None),
        ([-9], None),
        ([], None),
    ],
)
def test_ranks_that_were_asked_to_stop_are_known_from_those_that_failed(
    codes: list[int], told: signal.Signals | None
) -> None:
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}
    assert stop_signal_of(failures) == told


HOLDING = """
import sys
from pathlib import Path
from ffdist.snapshot.writers import writing_there
with writing_there(Path(sys.argv[1])):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_as_long_as_a_worker_of_a_lost_launcher_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with Forked(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "here\n"
        with pytest.raises(ConfigError, match="has lost its launcher are still at work"), locked(tmp_path):
            pass
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        with locked(tmp_path):
            pass


def test_a_folder_that_goes_while_its_run_is_at_work_ends_it(tmp_path: Path) -> None:
    def remove(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step == 3 and (tmp_path / "run").exists():
            rmtree(tmp_path / "run")

    make = DigitsJob(tmp_path / "run", settings={"report_every": 0.0, "snapshot_every": 5})
    with pytest.raises(SnapshotError, match=r"is gone|cannot be written"):
        run_threads(make(), remove)
    assert not (tmp_path / "run" / "snapshots").exists()


def test_a_folder_in_the_place_of_a_runs_own_gets_no_snapshot(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    store = SnapshotStore(run, [])
    run.rename(tmp_path / "away")
    run.mkdir()
    with pytest.raises(SnapshotError, match=r"(?s)another is in its place.*another one"):
        store.save([], Snapshot(1, 0, 1))
    assert not any(run.iterdir())


def test_a_run_with_a_plan_of_its_own_is_read_again(tmp_path: Path) -> None:
    told = Settings().changed(plan="conv1 conv2 @ 0 | conv3 @ 1", lanes=2)
    write_settings(tmp_path, told)
    assert read_settings(tmp_path) == told
