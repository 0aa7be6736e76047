"""The measurements that are for the project alone."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from benchmarks import changes, finite, floors, pulses, ray_transports, search_times, simulation, snapshots, workers
from benchmarks.report import report
from benchmarks.segments import estimate
from ffdist.bench import harness
from ffdist.bench.alone import OperationTimes
from ffdist.bench.bare import StepTimes
from ffdist.bench.floor import Floor
from ffdist.bench.harness.record import read
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable, Value
from ffdist.bench.harness.worker_pool import PoolMember
from ffdist.bench.settings import BenchSettings
from ffdist.models import cnnb
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.transport.measure import TransportRate

UNDONE = ["channels-last maps", "the norm over the channels-last view", "ReLU after max pools"]


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


def test_edges_of_a_ray_cluster_are_measured_with_the_probe_around_them(tmp_path: Path) -> None:
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def figures(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Of the only record: rows by side and metric."""
    (path,) = folder.glob("*.json")
    return {(row["side"], row["metric"]): row for row in read(path)["rows"]}


def test_an_estimate_is_the_median_within_the_bounds_that_order_gives() -> None:
    """Of eleven values the second and the tenth: their sign test's level is 1.2 %, the next ones' 6.5 %."""
    assert estimate([float(value) for value in range(11, 0, -1)]) == Value(6.0, 11, (2.0, 10.0))
    assert estimate([3.0, 1.0]) == Value(2.0, 2, (1.0, 3.0))


@pytest.mark.usefixtures("one_thread")
def test_pulses_and_snapshots_are_weighed_in_a_training_that_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulses.main(every=1, pairs=6, batch_size=2, record=tmp_path / "pulses")
    found = figures(tmp_path / "pulses")
    assert {side for side, _ in found} == set(pulses.KINDS.values())
    cost = found["computing of the thread", "cost"]
    assert (cost["n"], cost["spread"][0] <= cost["value"] <= cost["spread"][1]) == (6, True)
    batch, pulse = (found["computing of the thread", metric]["value"] for metric in ("batch", "pulse"))
    assert cost["value"] == pytest.approx(pulse / batch, rel=1e-6), "of the one batch between two pulses"
    snapshots.main(pairs=3, widths=("8,12,16",), seconds=0.01, record=tmp_path / "snapshots")
    found = figures(tmp_path / "snapshots")
    for way in ("in the background", "at once"):
        added, minute = (found[way, metric] for metric in ("added", "minute"))
        assert minute["value"] == pytest.approx(added["value"] / 60e3)
        assert found[way, "state"]["value"] == found["in the background", "state"]["value"] > 0
    assert "A snapshot of one stage" in capsys.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_a_look_for_nan_is_weighed_with_the_same_blocks_on_both_ways_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "BATCH", 4)
    finite.main(models=("cnnb",), precisions=("fp32",), pairs=3, record=tmp_path)
    found = figures(tmp_path)
    assert {side for side, _ in found} == {"stop", "skip"}
    for way in ("stop", "skip"):
        cost = found[way, "cost"]
        assert (cost["n"], cost["spread"][0] <= cost["value"] <= cost["spread"][1]) == (3, True)
        assert found[way, "step"]["value"] > 0


def test_floors_hold_backpropagation_against_what_ffdist_needs_for_the_same_batch() -> None:
    settings = BenchSettings().changed(data="digits", model="mlp", batch_size=100)
    tables = [
        ResultTable("floors", "", floors.FLOOR, floors.FLOOR_UNITS),
        ResultTable("bare", "", floors.BARE, floors.BARE_UNITS),
    ]
    blocks = [OperationTimes(products, 0.0, 0.0) for products in (1.0, 2.0, 2.0)]
    timed = {"ff": blocks, "bp": [OperationTimes(7.0, 2.0, 1.0)]}
    floors.add_floor(tables[0], settings, {"ff": Floor(2e9, 5 * 10**6), "bp": Floor(3e9, 0)}, timed)
    floors.add_bare(tables[1], settings, StepTimes(ff=8.0, bp=10.0, bare=[1.0, 3.0, 1.0]), 2)
    (alone,), (whole,) = (table.drawn_cells() for table in tables)
    assert (alone["BP / FF"], alone["BP / FF by time"], alone["slower of 2 stages, ms"]) == (1.5, 2.0, 3e3)
    assert (whole["BP / FF"], whole["BP / without heads"], whole["samples/s of it"]) == (1.25, 2.0, 25.0)


@pytest.mark.usefixtures("one_thread")
def test_a_plan_is_simulated_and_run_and_the_error_is_what_lies_between() -> None:
    settings = BenchSettings().changed(
        data="digits", model="mlp", model_args=["widths=16,16,16"], batch_size=32, precision="fp32", seconds=0.05
    )
    made = ResultTable("simulation", "", simulation.COLUMNS, simulation.UNITS)
    with ExitStack() as ends:
        reference = simulation.Reference(ends, settings)
        known = reference.beside(settings)
        case = next(case for case in simulation.cases(known.names) if case.by == "threads" and case.plan.workers == 2)
        error = simulation.compare(made, case, settings, known, reference, rounds=2, samples=640)
    (line,) = made.drawn_cells()
    measured, simulated = line["measured samples/s"], line["simulated samples/s"]
    assert isinstance(measured, float)
    assert isinstance(simulated, float)
    assert (line["n"], line["plan"]) == (2, str(case.plan))
    assert isinstance(line["machine"], float)
    assert line["machine"] > 0
    assert error == pytest.approx(abs(simulated - measured) / measured)


@pytest.mark.usefixtures("one_thread")
def test_a_change_is_undone_in_a_process_that_answers_with_its_time_a_step() -> None:
    here, there = multiprocessing.Pipe()
    for order in (1, 2, None):
        here.send(order)
    changes.TrainerMain("mlp", "fused AdamW")(PoolMember(World(0, 1, 0), "", there))
    assert min(here.recv()[1] for _ in range(2)) > 0


def test_the_search_for_a_plan_is_timed(tmp_path: Path) -> None:
    search_times.main(repeats=2, forecast=False, cases=1, record=tmp_path)
    (record,) = tmp_path.glob("*.json")
    (row,) = (row for row in read(record)["rows"] if row["metric"] == "search")
    assert (row["blocks"], row["lanes"], row["exact"], row["n"]) == (64, 1, "yes", 2)
    assert 0 < row["spread"][0] <= row["value"] <= row["spread"][1]


def test_every_script_says_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are told by a function's own parameters."""
    for script in (changes, floors, pulses, ray_transports, search_times, simulation, snapshots, workers):
        with pytest.raises(SystemExit) as ended:
            tyro.cli(script.main, args=["--help"])
        assert ended.value.code == 0
        assert "--record" in capsys.readouterr().out, script.__name__


def test_the_harness_needs_torch_alone() -> None:
    """As on a lent machine, where nothing is installed beside it."""
    names = [f"ffdist.bench.harness.{path.stem}" for path in Path(harness.__path__[0]).glob("[a-z]*.py")]
    assert len(names) > 8
    ours = ("pyarrow", "tyro", "rich", "safetensors", "sklearn", "matplotlib", "PIL", "numpy", "filelock", "jinja2")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({ours!r})\nimport torch, importlib\n"
        f"before = set(sys.modules)\nfor name in {names!r}: importlib.import_module(name)\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout) <= {"ffdist", "torch", "numpy"}
