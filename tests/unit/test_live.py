"""The stages at work, as a terminal shows them: all there is where there is room, and never more."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from ffdist.events import PulseReported, RunStarted
from ffdist.report.console import ConsoleReport
from ffdist.report.live import stages_view

HEADS = (
    "stage",
    "worker",
    "device",
    "samples/s",
    "computes",
    "input",
    "next",
    "queue",
    "blocks",
    "loss",
    "accuracy",
    "run",
    "process",
)


def stage(index: int, blocks: list[str]) -> dict[str, Any]:
    learned = [{"block": name, "loss": 2.125, "accuracy": 0.25, "lr": 0.001} for name in blocks]
    times = {"seconds": 2.0, "busy": 1.5, "no_data": 0.3, "no_credit": 0.2, "samples": 640, "queued": 0.5}
    sizes = {"run_bytes": 31 * 2**20, "process_bytes": 602 * 2**20}
    return {"stage": index, "worker": index, "device": "cpu", "blocks": learned, **times, **sizes}


def shown(width: int, *stages: dict[str, Any], height: int = 40) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(stages_view(PulseReported(5, 1, "", 320.0, list(stages)), console))
    return captured.get().splitlines()


PAIR = stage(0, ["conv1", "conv2"]), stage(1, ["conv3"])


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (120, 1), (80, 2)])
def test_a_row_a_stage_has_its_place_times_learning_and_both_memories(width: int, tables: int) -> None:
    lines = shown(width, *PAIR)
    text = "\n".join(lines)
    assert all(head in text for head in HEADS)
    assert text.count("stage ") == tables
    for value in ("cpu", "320", "75%", "15%", "10%", "0.5", "2.12", "25.0%", "31 MiB", "602 MiB"):
        assert value in text
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 40, 30])
def test_a_narrow_terminal_gets_less_and_no_line_is_too_long(width: int) -> None:
    lines = shown(width, *PAIR)
    assert max(map(len, lines)) <= width
    assert all(word in "\n".join(lines) for word in ("computes", "75%", "accuracy", "conv3", "25.0%"))


@pytest.mark.parametrize("width", range(28, 101, 3))
def test_no_head_and_no_value_is_cut_at_any_width(width: int) -> None:
    words = " ".join(shown(width, *PAIR)).split()
    heads = "stage worker device samples/s computes waits for input next queue blocks loss accuracy"
    whole = {*heads.split(), "run", "process", "memory", "MiB"}
    assert {word for word in words if word.isalpha() or "/" in word} <= whole | {"cpu"}
    assert words.count("MiB") == 2 * (words.count("run") + words.count("process"))


@pytest.mark.parametrize("width", [42, 50, 72, 80])
def test_the_bar_of_a_narrow_terminal_is_whole(width: int) -> None:
    console = Console(width=width, height=40, force_terminal=True, color_system=None)
    report = ConsoleReport(console)
    with console.capture() as captured:
        report(RunStarted(100, 30, 1234, 12))
        report(PulseReported(1235, 12, "", 5919.0, list(PAIR)))
        report.close()
        console.print(report.progress)
    text = captured.get()
    assert "1234/3000" in text
    assert "left:" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 100, 200])
def test_many_blocks_fold_within_their_row(width: int) -> None:
    names = [[f"layer{i}.conv{j}" for j in range(12)] for i in range(3)]
    lines = shown(width, *(stage(i, blocks) for i, blocks in enumerate(names)))
    assert max(map(len, lines)) <= width
    assert all(name in "\n".join(lines) for blocks in names for name in blocks)


def test_more_stages_than_lines_stay_in_one_table() -> None:
    lines = shown(100, *(stage(i, [f"b{i}"]) for i in range(20)), height=30)
    assert sum("stage " in line for line in lines) == 1
