"""Workers on devices of unequal speed: measured once a kind, told to the planner, and their shares follow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from jobs import QUIET, DigitsJob

from ffdist.planner.cached import profile_of
from ffdist.planner.cluster import Cluster
from ffdist.planner.forecast import fastest
from ffdist.runtime.planning import searched
from ffdist.runtime.speeds import kind_of, of_all_blocks, seconds_of, speeds_of
from ffdist.runtime.threads import run_threads
from ffdist.runtime.world import World

CPU, WAIT = torch.device("cpu"), timedelta(seconds=30)


def all_speeds(kinds: list[str], seconds: dict[str, float]) -> tuple[list[tuple[float, ...]], list[int]]:
    """What each worker is told, and who has measured."""
    store, measured = dist.HashStore(), list[int]()

    def speeds_of_rank(rank: int) -> tuple[float, ...]:
        def measure() -> float:
            measured.append(rank)
            return seconds[kinds[rank]]

        return speeds_of(store, World(rank, len(kinds), rank), kinds[rank], measure, WAIT)

    with ThreadPoolExecutor(len(kinds)) as pool:
        return list(pool.map(speeds_of_rank, range(len(kinds)))), sorted(measured)


def test_the_first_of_each_kind_measures_and_rank_0_gets_it() -> None:
    speeds, measured = all_speeds(["new", "old", "old", "new"], {"new": 1.0, "old": 4.0})
    assert speeds[0] == (1.0, 0.25, 0.25, 1.0)
    assert measured == [0, 1]
    assert all_speeds(["new"] * 3, {"new": 1.0}) == ([()] * 3, [])


def test_a_slower_device_gets_a_smaller_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = DigitsJob(settings={"devices": 2, "samples": 100, "batch_size": 16})()
    train = job.loaders().train
    alike, unlike = (searched(job, 2, CPU, train, speeds) for speeds in ((), (1.0, 0.05)))
    assert "the devices' speeds, measured: 1, 0.05" in capsys.readouterr().err
    profile = profile_of(job.chain, job.objective, job.settings, train, device=CPU)
    expected = fastest(profile, Cluster(2, speeds=(1.0, 0.05)), exactly=True)[0].plan
    assert unlike != alike or expected == alike

    def lanes_times_blocks(worker: int) -> int:
        return sum(
            len(share.lanes) * len(stage.blocks)
            for stage in unlike.stages
            for share in stage.shares
            if share.worker == worker
        )

    assert lanes_times_blocks(0) > lanes_times_blocks(1)
    assert seconds_of(job, CPU) == of_all_blocks(profile) > 0
    assert "threads" in kind_of(CPU)


def test_alike_devices_need_no_measuring_of_speeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_threads(DigitsJob(tmp_path, epochs=1, settings={"devices": 2, "samples": 100, "batch_size": 16})(), QUIET)
    text = capsys.readouterr().err
    assert "the plan:" in text
    assert "speeds" not in text
