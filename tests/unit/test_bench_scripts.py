"""The measurements that are for the project alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import changes, ray_transports, simulation
from benchmarks.report import report
from ffdist.bench.harness.finding import BenchResult
from ffdist.bench.harness.record import read
from ffdist.bench.harness.table import ResultTable
from ffdist.models import cnnb
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings
from ffdist.transport.measure import TransportRate

UNDONE = ["channels-last maps", "the norm over the channels-last view", "ReLU behind max pools"]


def learned(change: str | None) -> list[torch.Tensor]:
    """The weights behind one step, with or without a change."""
    chain, config = cnnb((3, 8, 8), 10, (4, 6)), BlockConfig(Settings().changed(precision="fp32", optimizer="sgd"), 10)
    blocks: list[LearningBlock] = [build_block(chain, spec, SFF(), config) for spec in block_specs(chain)]
    if change and (undo := changes.CHANGES[change].undo):
        undo(blocks)
    generator = torch.Generator().manual_seed(0)
    learn(blocks, torch.rand(8, 3, 8, 8, generator=generator), torch.arange(8), 1)
    return [p.detach() for block in blocks for p in block.module.parameters()]


@pytest.mark.parametrize("change", UNDONE)
def test_an_optimisation_changes_how_fast_a_step_is_and_not_what_it_learns(change: str) -> None:
    for with_it, without in zip(learned(None), learned(change), strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-5)


def test_the_simulator_is_held_against_plans_of_every_kind_by_processes_and_by_threads() -> None:
    cases = simulation.cases(["a", "b", "c"])
    assert {"processes", "threads"} <= {case.by for case in cases}
    assert {len(case.plan.stages) for case in cases} == {1, 2, 3}
    assert all(case.plan.workers <= 2 for case in cases)


def test_edges_of_a_ray_cluster_are_told_with_the_probe_around_them(tmp_path: Path) -> None:
    rate = TransportRate("gloo", 2**20, 9.0, 10.0, 0.5, 0.4, 0.6, 5)
    finding = ray_transports.found([rate], 1.9)
    report(finding, tmp_path, {"rounds": 5})
    (path,) = tmp_path.glob("*.json")
    record = read(path)
    assert record["settings"] == {"rounds": 5}
    assert [row["value"] for row in record["rows"] if row["metric"] == "bandwidth"] == [10.0]
    assert "1.90" in record["notes"][0]


def test_what_a_script_found_is_printed_as_its_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    table = ResultTable("part", "a title", {"side": "side", "seconds": "time"}, {"time": "s"})
    table.add(side="ours", time=1.5)
    report(BenchResult("suite", {}, [table], ["a note"]), None)
    said = capsys.readouterr().out
    assert "ours" in said
    assert "1.5" in said
    assert "- a note" in said
