"""The pipeline changes nothing: stages as real processes, against one stage in this one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from jobs import QUIET, DigitsJob, fingerprint, learned
from stages import stages_of

from ffdist.errors import DivergedError, FfdistError, StageError
from ffdist.events import ProgressMade, RunEvent, RunRestarted, from_json
from ffdist.objectives import SFF, BlockSpec, Hinton, Local
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.outcome import Result
from ffdist.runtime.processes import run_processes
from ffdist.runtime.run_worker import run_worker
from ffdist.runtime.threads import run_threads
from ffdist.runtime.worker_main import TrainingMain
from ffdist.runtime.world import World
from ffdist.snapshot import latest
from ffdist.transport.contract import ContractRank, Crew
from ffdist.transport.listeners import listening

pytestmark = pytest.mark.distributed


def run_stages(make: DigitsJob, run: Path, stages: int, **settings: Any) -> Result:
    return run_processes(TrainingMain(placed(make, run, stages, settings)), stages, QUIET)


def placed(make: DigitsJob, run: Path, stages: int, settings: dict[str, Any]) -> DigitsJob:
    return replace(make, run=run, settings=make.settings | {"stages": stages, **settings})


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Processes for what asks nothing of their start and their end: each costs seconds."""
    with Crew(4) as made:
        yield made


def work(place: ContractRank, make: DigitsJob, workers: int) -> list[dict[str, Any]]:
    """A rank's part of a run of so many workers; what was reported in it."""
    messages: list[dict[str, Any]] = []
    if place.rank < workers:
        world = World(place.rank, workers, place.rank)
        report = lambda event: messages.append(event.to_json())  # noqa: E731
        run_worker(make, world, place.store, report, stop=Event(), activity=Activity())
    return messages


def run_in(crew: Crew, make: DigitsJob, workers: int) -> Result:
    """As `run_processes` does, in processes that are there already."""
    result = Result()
    hear = result.collecting(QUIET)
    for outcome in crew.run(work, make, workers, timeout=250):
        for event in outcome.unwrap():
            hear(from_json(event))
    return result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[dict[str, Any]], Any]:
    """What one stage in this process learns."""
    run = tmp_path_factory.mktemp("alone")
    result = run_threads(DigitsJob(run, noisy=True)(), QUIET)
    return fingerprint(run), learned(result.records), result.test


@pytest.mark.parametrize(
    ("stages", "transport"), [(1, "auto"), (2, "shared-memory"), (3, "shared-memory"), (2, "gloo"), (3, "gloo")]
)
def test_stage_processes_equal_one_process_bit_for_bit(
    stages: int, transport: str, alone: tuple[list[str], list[dict[str, Any]], Any], crew: Crew, tmp_path: Path
) -> None:
    result = run_in(crew, placed(DigitsJob(noisy=True), tmp_path, stages, {"transport": transport}), stages)
    assert (fingerprint(tmp_path), learned(result.records), result.test) == alone


def strangers_in(place: ContractRank, make: DigitsJob, workers: int) -> list[bool]:
    """Whether each socket that listens for a rank's edges takes a stranger while the run is at work."""
    before, taken = listening(), list[bool]()

    def knock(event: RunEvent) -> None:
        for descriptor in () if taken else listening() - before:
            with socket.socket(fileno=os.dup(descriptor)) as listener, socket.socket(listener.family) as stranger:
                stranger.settimeout(0.1)
                taken.append(stranger.connect_ex(listener.getsockname()) == 0)

    if place.rank < workers:
        world = World(place.rank, workers, place.rank)
        run_worker(make, world, place.store, knock, stop=Event(), activity=Activity())
    return taken


@pytest.mark.skipif(sys.platform != "linux", reason="needs filters of sockets")
def test_by_gloo_nobody_gets_in_once_the_ranks_are_joined(crew: Crew, tmp_path: Path) -> None:
    """gloo would take all who come, until it has no descriptors left, and abort."""
    make = placed(DigitsJob(epochs=1, settings={"samples": 64}), tmp_path, 2, {"transport": "gloo"})
    _, last, *_ = crew.run(strangers_in, make, 2, timeout=250)
    assert last.unwrap() == [False, False], "of the group of all, and of the edge's"


def test_stages_that_are_started_for_it_equal_one_process_bit_for_bit(
    alone: tuple[list[str], list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    result = run_stages(DigitsJob(noisy=True), tmp_path, 2)
    assert (fingerprint(tmp_path), learned(result.records), result.test) == alone


def test_bf16_activations_between_processes_change_nothing(crew: Crew, tmp_path: Path) -> None:
    make = DigitsJob(epochs=1, settings={"precision": "bf16"})
    run_threads(replace(make, run=tmp_path / "one")(), QUIET)
    run_in(crew, placed(make, tmp_path / "two", 2, {}), 2)
    assert fingerprint(tmp_path / "two") == fingerprint(tmp_path / "one")


@pytest.mark.parametrize(("stages", "transport"), [(2, "gloo"), (4, "shared-memory")])
def test_a_fusion_head_in_any_process_learns_what_it_learns_in_one(
    stages: int, transport: str, crew: Crew, tmp_path: Path
) -> None:
    make = DigitsJob(epochs=1, settings={"fusion": True})
    one = run_threads(replace(make, run=tmp_path / "one")(), QUIET)
    several = run_in(crew, placed(make, tmp_path / "several", stages, {"transport": transport}), stages)
    assert fingerprint(tmp_path / "several") == fingerprint(tmp_path / "one")
    assert several.test == one.test


@pytest.mark.parametrize(("stages", "transport"), [(2, "gloo"), (3, "shared-memory"), (3, "gloo")])
def test_predictions_that_travel_back_between_processes_change_nothing(
    stages: int, transport: str, crew: Crew, tmp_path: Path
) -> None:
    make = DigitsJob(noisy=True, objective=Hinton(predict="linear", hard=True, lag=12))
    run_threads(replace(make, run=tmp_path / "one")(), QUIET)
    run_in(crew, placed(make, tmp_path / "more", stages, {"transport": transport}), stages)
    assert fingerprint(tmp_path / "more") == fingerprint(tmp_path / "one")


@pytest.fixture(scope="module")
def alone_in_lanes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[dict[str, Any]], Any]:
    """What one worker in this process learns of batches of four lanes."""
    run = tmp_path_factory.mktemp("lanes")
    result = run_threads(DigitsJob(run, epochs=1, noisy=True, settings={"stages": 1, "lanes": 4})(), QUIET)
    return fingerprint(run), learned(result.records), result.test


@pytest.mark.parametrize(
    ("plan", "workers", "transport"),
    [
        ("* @ 0:0-1, 1:2-3", 2, "shared-memory"),
        ("* @ 0:0-2, 1:3", 2, "gloo"),
        ("noisy1 @ 0 | noisy2 @ 0:0, 1:1-3 | noisy3 @ 1", 2, "shared-memory"),
        ("noisy1 @ 2 | noisy2 @ 0:0-1, 1:2-3 | noisy3 @ 0", 3, "gloo"),
        ("noisy1 @ 2 | noisy2 noisy3 @ 1, 0 by batch", 3, "gloo"),
        ("* @ 0, 1 by batch", 2, "shared-memory"),
        ("noisy1 @ 3 | noisy2 noisy3 @ 1:0, 2:1, 0:2, 3:3", 4, "shared-memory"),
        ("* @ 0-3", 4, "gloo"),
    ],
)
def test_workers_that_share_blocks_equal_one_bit_for_bit(
    plan: str,
    workers: int,
    transport: str,
    alone_in_lanes: tuple[list[str], list[dict[str, Any]], Any],
    crew: Crew,
    tmp_path: Path,
) -> None:
    """Four of them by halves, others by slices."""
    options = {"plan": plan, "lanes": 4, "transport": transport, "exchange": "halves"}
    result = run_in(crew, DigitsJob(tmp_path, epochs=1, noisy=True, settings=options), workers)
    assert (fingerprint(tmp_path), learned(result.records), result.test) == alone_in_lanes


@pytest.mark.parametrize("plan", ["* @ 0:0-1, 1:2-3", "* @ 0, 1 by batch"])
def test_replicas_asked_to_stop_end_after_one_snapshot_and_go_on(
    plan: str, alone_in_lanes: tuple[list[str], list[dict[str, Any]], Any], crew: Crew, tmp_path: Path
) -> None:
    options = {"plan": plan, "lanes": 4, "report_every": 0.0}

    def interrupt(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    make = DigitsJob(tmp_path, epochs=1, noisy=True, settings=options)
    assert run_processes(TrainingMain(make), 2, interrupt).reason == "interrupted"
    manifest = latest(tmp_path)
    assert manifest
    assert manifest.batch
    result = run_in(crew, replace(make, settings=options | {"resume": True}), 2)
    assert (fingerprint(tmp_path), learned(result.records), result.test) == alone_in_lanes


def kill_stage_at(step: int, rank: int) -> Any:
    """A reporter that kills a stage's process (a child of this one) when a batch is reported."""

    def report(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step >= step:
            for stage in stages_of(os.getpid(), rank):
                os.kill(stage, signal.SIGKILL)

    return report


def test_a_killed_stage_ends_the_others_with_an_error_that_names_it_and_the_run_resumes(
    crew: Crew, tmp_path: Path
) -> None:
    make = DigitsJob(noisy=True, settings={"report_every": 0.0, "snapshot_every": 5})
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut", settings=make.settings | {"stages": 3})
    with pytest.raises(StageError, match=r"worker 1 died(.|\n)*SIGKILL"):
        run_processes(TrainingMain(cut), 3, kill_stage_at(12, rank=1))
    manifest = latest(tmp_path / "cut")
    assert manifest is not None
    assert manifest.step >= 5
    run_in(crew, placed(make, tmp_path / "cut", 2, {"resume": True}), 2)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


class Exploding(SFF):
    """A rule whose loss is not a number in the second block."""

    def head(self, spec: BlockSpec) -> Any:
        head = super().head(spec)
        head.poisoned = spec.index == 1
        return head

    def local(self, head: Any, out: Any, labels: Any) -> Local:
        local = super().local(head, out, labels)
        return local._replace(loss=local.loss * float("nan")) if head.poisoned else local


def test_the_error_of_the_stage_that_failed_is_raised_not_what_its_neighbours_saw(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="block 1"):
        run_stages(DigitsJob(objective=Exploding()), tmp_path, 3)


def test_an_error_before_the_stream_begins_reaches_every_stage(crew: Crew, tmp_path: Path) -> None:
    for outcome in crew.run(work, placed(DigitsJob(), tmp_path, 2, {"cut": [1, 1]}), 2, timeout=250)[:2]:
        with pytest.raises(FfdistError, match=r"plan\.cut does not fit"):
            outcome.unwrap()


def test_a_stage_that_is_killed_and_one_that_is_stopped_are_replaced_and_change_nothing(tmp_path: Path) -> None:
    make = DigitsJob(noisy=True, settings={"report_every": 0.0, "snapshot_every": 5})
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut", settings=make.settings | {"stages": 2})
    left, restarts = [(22, 0, signal.SIGSTOP), (8, 1, signal.SIGKILL)], list[RunRestarted]()

    def disturb(event: RunEvent) -> None:
        if isinstance(event, RunRestarted):
            restarts.append(event)
        if left and isinstance(event, ProgressMade) and event.step >= left[-1][0]:
            _, rank, number = left.pop()
            for stage in stages_of(os.getpid(), rank):
                os.kill(stage, number)

    result = run_processes(TrainingMain(cut), 2, disturb, run=tmp_path / "cut", max_restarts=1, timeout=1.0)
    assert result.reason == "finished"
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert ["SIGKILL" in restarts[0].reason, "does not answer" in restarts[1].reason] == [True, True]
    assert "most recent call first" in (tmp_path / "cut" / "stage-0.log").read_text()
