"""What a run says of itself on a screen."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ffdist import Result, open_data
from ffdist.events import EpochEnded, RunStarted
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport, result_tables

STAGE = {"stage": 0, "blocks": ["a"], "seconds": 2.0, "busy": 1.0, "no_data": 0.5, "no_credit": 0.5, "queued": 0.0}
MEMORY = {"peak_bytes": 900 * 2**20, "run_bytes": 30 * 2**20, "process_bytes": 900 * 2**20}


def stages(*found: dict[str, Any]) -> str:
    record = {
        "train": {"samples_per_second": None, "blocks": []},
        "stages": [STAGE | {"stage": i} | x for i, x in enumerate(found)],
    }
    console = PlainConsole()
    with console.capture() as shown:
        console.print(result_tables([record], None)[-1])
    return shown.get()


def test_what_a_run_holds_stands_beside_what_its_process_does() -> None:
    text = stages(MEMORY | {"process": 1}, MEMORY | {"process": 2})
    assert "run memory" in text
    assert "30 MiB" in text
    assert "900 MiB" in text
    assert "whole process" not in text
    assert "whole process" in stages(MEMORY | {"process": 1}, MEMORY | {"process": 1})
    assert "process memory" in stages({"peak_bytes": 5})


MEMORY_GROWS = """
from ffdist.pipeline.memory import process_peak_bytes, resident_bytes
before = resident_bytes()
held = bytearray(b"x") * 2**26
assert resident_bytes() - before > len(held) / 2, (before, resident_bytes())
assert process_peak_bytes() > len(held)
"""


def test_memory_is_of_this_process_and_grows_with_what_it_holds() -> None:
    """In a process of its own: in one that ran other tests, memory goes back to the system at any moment."""
    subprocess.run([sys.executable, "-c", MEMORY_GROWS], check=True)


def test_results_and_data_show_themselves_in_a_line() -> None:
    result = Result("finished", records=[{"epoch": 1}] * 1000, test={"accuracy": {"mean": 0.98765}})
    assert repr(result) == "<Result: finished, 1000 epochs, test accuracy {'mean': 0.9877}>"
    assert "no test split" in repr(Result("finished"))
    assert "not tested" in repr(Result("interrupted"))
    assert repr(open_data("digits")) == "<Images 'digits': train 1,437, test 360; samples (1, 8, 8), 10 classes>"


@pytest.mark.parametrize("terminal", [True, False])
def test_each_epochs_line_stays_on_a_terminal_too(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    console = PlainConsole()
    console._force_terminal = terminal
    report = ConsoleReport(console)
    with console.capture() as shown:
        report(RunStarted(2, 2, 0, 1))
        for epoch in (1, 2):
            record = {"epoch": epoch, "train": {"samples_per_second": 5.0}}
            report(EpochEnded(record))
        report.close()
    assert "epoch 1/2: 5 samples/s" in shown.get()
    assert "epoch 2/2: 5 samples/s" in shown.get()
