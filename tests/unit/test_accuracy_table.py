"""The accuracy table: rows that can be trained, records that give the README's figures, a forecast before the work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from forked import run

from benchmarks.rows.cost import measure
from benchmarks.rows.record import accuracies, costs, layers, learned, seeds, spread
from benchmarks.rows.row import Row, find_row, read_rows
from benchmarks.rows.table import BEGIN, END, WHOLE, draw_whole, newest, redraw
from benchmarks.rows.train import finished, run_to_its_end, train
from ffdist.errors import ConfigError
from ffdist.pipeline.plan import block_specs, check_objective, head_of
from ffdist.presets import GROUPS, PRESETS, listing, with_preset
from ffdist.report.log import read_run_log
from ffdist.runtime.run import network
from ffdist.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ROWS = read_rows(ROOT / "benchmarks/accuracy.toml")
DATA = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "imagenette": ((3, 96, 96), 10),
}

TRIED: set[object] = set()
"""Networks with rules: a row, its preset, and rows of other data share one, which learns once; on each data of another
shape it is built."""


def check(settings: Settings, data: str) -> None:
    chain, objective = network(settings, *DATA[data])
    network_, rule = settings.network, settings.rule
    learner = (repr(objective), network_.model, network_.model_args, network_.blocks, rule.fusion)
    if learner not in TRIED:
        check_objective(chain, objective, fusion=rule.fusion)
    elif (learner, DATA[data]) not in TRIED:
        for spec in block_specs(chain, objective if rule.fusion else None):
            head_of(objective, spec)
    TRIED.update((learner, (learner, DATA[data])))
    assert len(settings.scheduler.windows) in (0, 1 if rule.objective == "backprop" else len(chain))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_network_and_a_rule_that_go_together_on_its_data(name: str) -> None:
    settings = with_preset(Settings(), name)
    check(settings, settings.dataset.data)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_can_be_trained_and_its_twin_is_a_row_of_the_same_data(name: str) -> None:
    row = ROWS[name]
    settings = row.settings(Path("data"), seed=3)
    check(settings, row.data)
    assert settings.dataset.data == f"data/{row.data}"
    assert (settings.training.seed, settings.plan.stages) == (3, 1)
    assert (settings.rule.objective == "backprop") == row.is_twin
    if row.twin:
        assert ROWS[row.twin].data == row.data
        assert ROWS[row.twin].is_twin


def test_presets_are_listed_in_groups_each_once() -> None:
    assert sum(len(group) for group in GROUPS.values()) == len(PRESETS)
    assert all(name in listing() for name in PRESETS)


def test_an_unknown_row_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="sff-cnnb-mnist"):
        find_row("sff-cnb-mnist", ROWS)


def test_the_documents_have_the_tables_that_the_records_give() -> None:
    records = newest(ROOT / "benchmarks/records")
    within = (ROOT / WHOLE).read_text().split(BEGIN)[1].split(END)[0]
    assert within.strip() == draw_whole(ROWS, records).strip(), "run: python benchmarks/accuracy.py table"
    assert all(f"`{row.name}`" in within for row in ROWS.values() if not row.is_twin)


WORDS = '"digits", "--epochs", "1", "--launcher", "threads"'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a row, its runs of two seeds, and their record; and what was said on stderr."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "accuracy.toml").write_text(f'[digits-quick]\ndata = "digits"\nargs = [{WORDS}]\n')
    command = [
        sys.executable,
        str(ROOT / "benchmarks/accuracy.py"),
        "digits-quick",
        "--seeds",
        "0",
        "1",
        "--rows",
        str(folder / "accuracy.toml"),
        "--runs",
        str(folder),
        "--records",
        str(folder / "new/records"),
    ]
    return folder, run(command).stderr


@pytest.mark.distributed
def test_a_row_is_trained_for_each_seed_recorded_and_drawn_and_then_not_trained_again(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, said = trained
    assert "s of CPU" in said
    outs = [folder / "digits-quick" / f"seed-{seed}" for seed in (0, 1)]
    assert all(map(finished, outs))
    rows = read_rows(folder / "accuracy.toml")
    record = newest(folder / "new/records")["digits-quick"]
    by_seed = [row["value"] for row in record["rows"] if row["part"] == "seeds" and row.get("predictor") == "mean"]
    mean = accuracies(record)["mean"]
    assert mean["accuracy"].value == pytest.approx(sum(by_seed) / 2, abs=0.01)
    assert seeds(record) == [0, 1]
    assert costs(record)["cpu_seconds"] > 0
    assert layers(record) == {"conv1": 2, "conv2": 2, "conv3": 2}
    logged = [round(100 * each["train"]["blocks"][-1]["accuracy"], 2) for each in read_run_log(outs[0])[0]]
    assert learned(record) == f"Training accuracy of the last block by epoch, seed 0: {' '.join(map(str, logged))}."
    (tmp_path / "docs").mkdir()
    (tmp_path / WHOLE).write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    redraw(tmp_path, rows, folder / "new/records")
    drawn = (tmp_path / WHOLE).read_text()
    assert f"{mean['accuracy'].value:.2f} ± " in spread(mean)
    assert spread(mean) in drawn
    assert drawn.endswith(f"{END}\nafter\n")
    log = (outs[0] / "metrics.jsonl").stat()
    train(["digits", "--epochs", "2"], outs[0])
    assert (outs[0] / "metrics.jsonl").stat() == log


@pytest.mark.distributed
def test_a_run_cut_off_before_its_first_snapshot_begins_anew(trained: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "seed-0"
    shutil.copytree(trained[0] / "digits-quick" / "seed-0", out)
    shutil.rmtree(out / "snapshots")
    (out / "metrics.jsonl").write_text("")
    train(["digits", "--epochs", "1"], out)
    assert finished(out)


def test_a_row_that_is_asked_to_stop_awaits_its_run(tmp_path: Path) -> None:
    saves = "import pathlib, signal, sys, time; begun, saved = map(pathlib.Path, sys.argv[1:])\n"
    saves += "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), saved.touch(), sys.exit(143)))\n"
    saves += "begun.touch(); [time.sleep(0.1) for _ in range(600)]"  # a signal just before a long sleep would wait
    begun, saved = tmp_path / "begun", tmp_path / "saved"

    def stop() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_to_its_end([sys.executable, "-S", "-c", saves, str(begun), str(saved)])
    thread.join()
    assert raised.value.returncode == 143
    assert saved.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_forecast_grows_with_the_epochs() -> None:
    settings = Row("quick", "digits", ("digits",)).settings(Path())
    once, often = (measure(settings.changed(epochs=epochs)).cpu_seconds for epochs in (1, 40))
    assert 0 < once < often
