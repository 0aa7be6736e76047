"""What users name is printed as it is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from ffdist.bench.harness import table
from ffdist.cli import doctor
from ffdist.cli.training import stage_table
from ffdist.events import RunRestarted
from ffdist.pipeline.plan import BlockCost
from ffdist.plain import PlainConsole, levels
from ffdist.plan import Plan
from ffdist.report.cam import BlockMaps, focus_table
from ffdist.report.console import ConsoleReport, accuracy_table, confusion_table, result_tables
from ffdist.report.summary import curve_table, settings_table
from ffdist.runtime.run import write_settings
from ffdist.settings import Settings

NAMES = st.one_of(
    st.sampled_from(
        ["cat [black]", "[/]", "[/b]", "[bold]x", "[lr=1e-3]", ":cat:", "a\\[b]", "[link=x]y[/link]", "[@]"]
    ),
    st.text("[]/\\:=#.ab1é漢 ", min_size=1).map(str.strip).filter(bool),
)


def printed(table: Table | str) -> str:
    console = PlainConsole()
    with console.capture() as shown:
        console.print(table, soft_wrap=isinstance(table, str))
    return shown.get()


def split(block: str) -> dict[str, Any]:
    return {"samples": 9, "accuracy": {"mean": 0.5, "last": 0.5}, "blocks": [{"block": block, "accuracy": 0.5}]}


def record(block: str) -> dict[str, Any]:
    stage = {"stage": 0, "blocks": [block], "seconds": 2.0, "busy": 1.0, "no_data": 0.5, "no_credit": 0.5}
    train = {"blocks": [{"block": block, "loss": 1.0, "accuracy": 0.5}], "samples_per_second": 3.0}
    return {"epoch": 1, "train": train, "stages": [stage | {"peak_bytes": 2**20, "queued": 0.0}]}


def maps(block: str) -> Table:
    return focus_table([BlockMaps(block, (2, 2), torch.rand(1, 4, 4), torch.tensor([0]))], torch.tensor([0]))


def confusion(name: str, others: int) -> Table:
    classes = [name, *(f"other {i}" for i in range(others))]
    counts = [[1] * len(classes) for _ in classes]
    return confusion_table({"classes": classes, "predictor": "mean", "counts": counts})


TABLES = {
    "accuracy": lambda name: accuracy_table(split(name), "test"),
    "confusion": lambda name: confusion(name, 2),
    "mistakes": lambda name: confusion(name, 20),
    "stages": lambda name: result_tables([record(name)], None)[-1],
    "settings": lambda name: settings_table({"data": name}, {"data": "digits"}, "finished"),
    "curves": lambda name: curve_table([record(name)]),
    "dry run": lambda name: stage_table([BlockCost(name, 1.0, 1, 1)], Plan.pipeline([name], [1]), 1, {name: 1}),
    "maps": maps,
    "doctor": lambda name: doctor.checks_table([doctor.DoctorCheck(name, False, name, name)]),
    "bench": lambda name: table.ResultTable("", name, {name: "side"}, {}, [{"side": name}]).rich(),
}


@pytest.mark.parametrize("kind", TABLES)
@given(name=NAMES)
def test_a_name_stands_in_every_table_as_it_is(kind: str, name: str) -> None:
    assert name in printed(TABLES[kind](name))


@given(name=NAMES)
def test_a_line_of_the_live_report_holds_its_words_as_they_are(name: str) -> None:
    console = PlainConsole()
    with console.capture() as shown:
        ConsoleReport(console)(RunRestarted(1, 3, name))
    assert name in shown.get()


def test_a_name_longer_than_the_terminal_is_folded_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "x" * 70
    text = printed(settings_table({"data": name}, {"data": "digits"}, "finished"))
    assert text.count("x") == 70
    assert max(map(len, text.splitlines())) <= 40


def test_levels_are_such_as_the_output_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, fits in (("utf-8", "█"), ("latin-1", "#"), ("ascii", "#")):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert levels()[-1] == fits
        assert len(set(levels())) == 8


def ffdist(words: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    command = f'PYTHONIOENCODING={encoding} "{sys.executable}" -m ffdist {words}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose name no narrow encoding has, that was cut off before its end."""
    run = tmp_path_factory.mktemp("runs") / "läuf-漢"
    run.mkdir()
    write_settings(run, Settings().changed(data="läuf-漢[/b]"))
    (run / "metrics.jsonl").write_text("")
    return run


def test_what_a_narrow_stream_cannot_encode_is_written_as_escapes(folder: Path) -> None:
    done = ffdist(f"report '{folder}' --text", "latin-1")
    assert done.returncode == 0, done.stderr
    assert "läuf-\\u6f22[/b]" in done.stdout.decode("latin-1")
    refused = ffdist(f"eval '{folder}/none'", "ascii")
    assert refused.returncode == 1
    assert b"l\\xe4uf-\\u6f22/none" in refused.stderr


def test_a_pipe_that_nobody_reads_ends_a_command_quietly_and_a_closed_one_is_no_error(folder: Path) -> None:
    done = ffdist(f"report '{folder}' --text | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, b"")
    done = ffdist(f"report '{folder}' --text >&- 2>&- <&-")
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_help_is_there_without_a_command_and_a_mistyped_one_gets_the_nearest() -> None:
    alone, asked = ffdist(""), ffdist("help")
    assert alone.returncode == asked.returncode == 0
    assert alone.stdout == asked.stdout
    assert b"doctor" in alone.stdout
    assert ffdist("help eval").stdout == ffdist("eval --help").stdout != b""
    for words in ("trian", "help trian"):
        done = ffdist(words)
        assert done.returncode == 2
        assert b"did you mean 'train'?" in done.stderr


ALWAYS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


@ALWAYS_FULL
def test_output_that_finds_no_room_is_an_error_in_one_paragraph() -> None:
    done = ffdist("presets > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith(b"ffdist: error: what is printed cannot be written\n")
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@ALWAYS_FULL
def test_a_run_whose_messages_find_no_room_goes_on_to_its_end(tmp_path: Path) -> None:
    words = "train --samples 128 --epochs 1 --launcher threads --stages 1 --threads 1"
    done = ffdist(f"{words} --out '{tmp_path}/run' 2> /dev/full")
    assert done.returncode == 0
    assert b"run folder:" in done.stdout


IN_ASCII = """
import sys
from pathlib import Path
from ffdist.plan.plan import read_plan
from ffdist.report.log import StageLog
from ffdist.runtime.supervise import note_in

assert sys.flags.utf8_mode == 0 and Path("x").open("w").encoding != "utf-8"
print(ascii(read_plan(Path("plan.json")).stages[0].blocks))
with StageLog(Path(), 0) as log:
    log.write("caf\\xe9 \\u6f22 \\udce9")
note_in(Path(), "supervisor.log", "caf\\xe9")
"""


def test_files_hold_any_name_in_any_locale(tmp_path: Path) -> None:
    """Python takes a locale without UTF-8 for what it says, where a variable keeps it from its own remedy."""
    (tmp_path / "plan.json").write_text(
        json.dumps(Plan.parse("café @ 0", ["café"]).as_json(), ensure_ascii=False), encoding="utf-8"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", IN_ASCII], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert b"caf\\xe9" in done.stdout
    assert "café 漢 \\udce9" in (tmp_path / "stage-0.log").read_text(encoding="utf-8")
    assert "café" in (tmp_path / "supervisor.log").read_text(encoding="utf-8")
