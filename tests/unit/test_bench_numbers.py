"""The arithmetic of benchmarks: windows, medians, ratios, records."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from math import isnan
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ffdist
from ffdist.baselines import BASELINES, family
from ffdist.baselines.twin import BackpropRule, twin
from ffdist.bench.accuracy_found import AccuracyRuns, at_level, reached_after
from ffdist.bench.alone import OperationTimes, heavy_calls, slowest_stage, total
from ffdist.bench.bare import BareBlocks, StepTimes
from ffdist.bench.floor import floors
from ffdist.bench.harness.record import read, write_record
from ffdist.bench.harness.result import BenchResult, Plot
from ffdist.bench.harness.rounds import Rounds, take_turns
from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.harness.window import Window, WindowRate
from ffdist.bench.plot import draw
from ffdist.bench.settings import BenchSettings
from ffdist.bench.step import OneStep
from ffdist.bench.whole_runs import Epoch
from ffdist.errors import ConfigError
from ffdist.pipeline.block import BlockConfig


class Machine:
    """A probe that says what it is told, in turn."""

    required, alone = 1.8, 1e4

    def __init__(self, *says: float) -> None:
        self.says = list(says)

    def measure(self) -> float:
        return self.says.pop(0)


class Worker:
    """A side whose rates are known."""

    def __init__(self, name: str, log: list[str], *rates: int) -> None:
        self.name = name
        self.log = log
        self.rates = list(rates)
        self.window = Window(1, 1)

    def measure(self) -> WindowRate:
        self.log.append(self.name)
        return WindowRate(self.rates.pop(0), 1.0, {})


def test_a_window_counts_from_the_last_arrival_before_it_to_its_own_last() -> None:
    window = Window(warmup=2, batches=3, tail=2)
    assert window.total == 7
    assert window.seconds([0.0, 10.0, 11.0, 12.0, 13.0, 99.0, 100.0]) == 3.0


def test_ratios_are_pair_by_pair() -> None:
    assert ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == Summary(3.0, 2.0, 4.0, 3)
    assert isnan(Summary.of([]).median)


def test_sides_take_turns_and_the_order_alternates() -> None:
    log: list[str] = []
    a, b = Worker("a", log, 4, 4, 4), Worker("b", log, 2, 2, 1)
    rounds = take_turns([a, b], Machine(2, 2, 2, 2), 3)  # pyright: ignore[reportArgumentType]
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert rounds.ratio("a", "b") == Summary(2.0, 2.0, 4.0, 3)
    assert rounds.discarded == 0


def test_a_round_counts_only_between_two_good_probes() -> None:
    a = Worker("a", [], 1, 2, 3, 4)
    rounds = take_turns([a], Machine(2, 2, 1.1, 2, 2), 2)  # pyright: ignore[reportArgumentType]
    assert rounds.rates("a") == [1, 4], "the two rounds beside the bad probe are discarded"
    assert rounds.discarded == 2
    assert rounds.trusted


def test_a_machine_that_is_never_free_gives_figures_that_say_so() -> None:
    a = Worker("a", [], *range(1, 9))
    rounds: Rounds = take_turns([a], Machine(*[1.0] * 9), 2)  # pyright: ignore[reportArgumentType]
    assert not rounds.trusted
    assert rounds.discarded == 8
    assert any("NOT RELIABLE" in note for note in rounds.notes())


def test_a_record_holds_machine_versions_command_and_figures(tmp_path: Path) -> None:
    plot = Plot("lines", "t", "x", "y", {"ours": [(1, 2.0, 1.0, 3.0), (2, 3.0, 2.0, 4.0)]}, log_x=True)
    table = ResultTable(
        "compared", "a table", {"side": "side", "samples/s": "rate", "n": "rate.n"}, {"rate": "samples/s"}
    )
    table.add(side="ours", rate=Summary(1234.5, 1000.0, 1500.0, 7))
    finding = BenchResult("throughput", {"ratio": 1.5}, [table], ["a note"], plot)
    command = ["ffdist", "bench", "throughput"]
    first, second = (write_record(finding, tmp_path, command, {}, network="mlp", rule="sff") for _ in range(2))
    assert set(first).isdisjoint(second), "no record is overwritten"
    content = read(first[0])
    assert content["rows"] == [
        {
            "part": "compared",
            "network": "mlp",
            "rule": "sff",
            "side": "ours",
            "metric": "rate",
            "value": 1234.5,
            "n": 7,
            "spread": [1000.0, 1500.0],
            "unit": "samples/s",
        }
    ]
    assert content["command"] == "ffdist bench throughput"
    assert content["machine"]["cores"] >= 1
    assert {"python", "torch", "ffdist", "commit"} <= content["versions"].keys()
    text = first[1].read_text()
    assert "| ours | 1,234 | 7 |" in text
    assert "- a note" in text
    assert first[2].read_text().lstrip().startswith("<?xml")


def test_ddp_stands_for_its_tunings_and_a_wrong_name_is_answered_with_the_nearest() -> None:
    assert {"ddp", "ddp-static", "ddp-bf16", "ddp-bucket-100"} <= set(family("ddp"))
    assert all(name in BASELINES for name in family("pipeline"))
    with pytest.raises(ConfigError, match="did you mean"):
        family("dpp")


def test_the_operations_of_a_batch_are_those_of_its_matrix_products() -> None:
    found = floors(BenchSettings().changed(model="mlp", model_args=("widths=16,16",), batch_size=8))
    first, second, head = 784 * 16, 16 * 16, 16 * 10
    assert found["ff"].operations == 2 * 8 * (2 * first + 3 * head + 2 * second + 3 * head)  # no gradient goes back
    assert found["bp"].operations == 2 * 8 * (2 * first + 3 * second + 3 * head)


def test_the_heavy_operations_of_a_step_are_its_products_its_casts_and_its_optimisers() -> None:
    job = BenchSettings().changed(model="mlp", model_args=("widths=16,16",)).job(1)()
    plain, cast = (BlockConfig(job.settings.changed(precision=p), 10) for p in ("fp32", "bf16"))
    ff = heavy_calls(job.chain, job.objective, plain, batch_size=8)
    bp = heavy_calls(twin(job.chain), BackpropRule(), plain, batch_size=8)
    # a layer has no product for its input, a head has
    assert [(c.products.total(), c.casts.total(), c.optimisers.total()) for c in ff] == [(2 + 3, 0, 1)] * 2
    assert [(c.products.total(), c.casts.total(), c.optimisers.total()) for c in bp] == [(2 + 3 + 3, 0, 1)]
    for calls, weight in zip(heavy_calls(job.chain, job.objective, cast, 8), ((16, 784), (16, 16)), strict=True):
        there_and_back = [call.leaves[0].dtype for call in calls.casts.elements() if call.leaves[0].size == weight]
        assert sorted(map(str, there_and_back)) == ["torch.bfloat16", "torch.float32"]
        assert calls.replay(torch.device("cpu"), repeats=1).casts > 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lrs": (1e-3, 0.0)}, "compare.lrs"),
        ({"lengths": (0, 4)}, "compare.lengths"),
        ({"epochs": 0}, "training.epochs"),
        ({"clip": 0.9}, "optim.clip is not a setting that both sides"),
        ({"launcher": "threads"}, "plan.launcher is not a setting that both sides"),
        ({"precision": "fp16"}, "compute.precision=.fp16. is not compared"),
    ],
)
def test_settings_without_sense_are_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        BenchSettings().changed(**options)


def test_modules_are_measured_once_for_all_of_a_comparisons_processes(capsys: pytest.CaptureFixture[str]) -> None:
    settings = BenchSettings().changed(objective="dgl", modules=(2,), batch_size=4)
    jobs = [settings.changed(lr=lr).job(stages) for lr, stages in ((0.1, 1), (0.2, 2))]
    (blocks,) = {job.settings.network.blocks for job in jobs}
    assert (sum(blocks), len(blocks)) == (3, 2)
    assert all(len(job().chain) == 2 for job in jobs)
    assert capsys.readouterr().err.count("2 modules: ") == 1


def test_an_accuracy_is_reached_where_the_line_through_the_ends_of_epochs_is() -> None:
    run = [Epoch(10.0, 0.5, 0.0), Epoch(20.0, 0.7, 0.0), Epoch(30.0, 0.6, 0.0), Epoch(40.0, 0.8, 0.0)]
    assert reached_after(run, 0.3, chance=0.1) == pytest.approx(5.0)
    assert reached_after(run, 0.6, chance=0.1) == pytest.approx(15.0)
    assert reached_after(run, 0.75, chance=0.1) == pytest.approx(37.5)
    assert isnan(reached_after(run, 0.81, chance=0.1))
    slower = [Epoch(2 * seconds, found, mean) for seconds, found, mean in run]
    race = AccuracyRuns("ddp", 0.1, {}, {"ours": [run], "ddp": [slower]}, discarded=0, trusted=True)
    assert at_level(race, 0.7)[2] == (2.0, 2.0, 2.0, 1)
    race.runs["ddp"] = [slower[:1]]
    assert at_level(race, 0.7)[2].n == 0, "not all of them got there"


def test_the_slowest_stage_is_that_of_the_cut_that_makes_it_shortest() -> None:
    blocks = [OperationTimes(products, 0.25, 0.5) for products in (4.0, 1.0, 2.0, 1.0)]
    assert slowest_stage(blocks, 1) == total(blocks) == OperationTimes(8.0, 1.0, 2.0)
    assert slowest_stage(blocks, 2) == OperationTimes(4.0, 0.75, 1.5)  # 1 + 3: 4.75 and 6.25; 2 + 2: 6.5 and 4.5
    assert slowest_stage(blocks, 4) == blocks[0]


def test_bare_blocks_do_all_that_a_step_does_but_heads_and_the_norms_before_them() -> None:
    job = BenchSettings().changed(model="mlp", model_args=("widths=16,16",)).job(1)()
    config = BlockConfig(job.settings.changed(precision="fp32"), 10)
    step = OneStep(job.chain, job.objective, config, batch_size=8)
    bare = BareBlocks(step)
    heads = [copy.deepcopy(block.head.state_dict()) for block in step.blocks]
    modules = [copy.deepcopy(block.module.state_dict()) for block in step.blocks]
    with FlopCounterMode(display=False) as counter:
        assert len(bare()) == 2
    assert counter.get_total_flops() == 2 * 8 * (2 * 784 * 16 + 2 * 16 * 16)  # forward, and for the weights
    for block, head, module in zip(step.blocks, heads, modules, strict=True):
        torch.testing.assert_close(block.head.state_dict(), head, rtol=0, atol=0)
        assert all(not torch.equal(value, module[name]) for name, value in block.module.state_dict().items())


def test_the_slower_of_two_stages_is_that_of_the_best_cut() -> None:
    assert StepTimes(0, 0, [3, 1, 1, 4]).slower_stage() == 5
    assert StepTimes(0, 0, [3, 1, 1, 4]).slower_stage(4) == 4


def test_an_installed_ffdist_is_not_at_the_commit_of_the_checkout_around_it(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    shutil.copytree(Path(ffdist.__file__).parent, packages / "ffdist", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    code = (
        "import os; from ffdist.environment import commit; print(commit(), os.environ.pop('FFDIST_COMMIT'), commit())"
    )
    environment = {**os.environ, "PYTHONPATH": str(packages), "FFDIST_COMMIT": "0123abc"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["0123abc", "0123abc", "unknown"]


def test_a_plot_of_logarithms_shows_powers_of_ten(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    series = {"a": [(8, 100.0, 99.0, 101.0), (512, 6400.0, 6300.0, 6500.0)]}
    for log_y in (False, True):
        draw(Plot("lines", "t", "devices", "samples/s", series, log_x=True, log_y=log_y), tmp_path / "plot.svg")
        assert ("10^{3}" in (tmp_path / "plot.svg").read_text()) == log_y
