"""Far more workers than cores: they start, train, stop with a snapshot, and go on by another plan."""

from __future__ import annotations

from pathlib import Path

from benchmarks.workers import NAMES, by_threads, mixed, replicas, tried
from ffdist.plan import Plan


def test_sixteen_threads_of_a_mixed_plan_stop_in_an_epoch_and_go_on_by_another(tmp_path: Path) -> None:
    row = tried("threads", 16, by_threads, tmp_path, 400)
    assert row["same_bits"] == "yes"
    assert row["start"]


def test_the_plans_have_all_workers_and_some_serve_twice() -> None:
    for workers in (4, 16, 64):
        plan = Plan.parse(mixed(workers), NAMES)
        assert plan.workers == Plan.parse(replicas(workers), NAMES).workers == workers
        assert {len(plan.stages_of(worker)) for worker in range(workers)} == {1, 2}
