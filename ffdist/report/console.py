"""The console of a run: live progress, then a table."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ffdist.events import EpochEnded, ProgressMade, PulseReported, RunEvent, RunRestarted, RunStarted, RunStopped
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.predictors import PREDICTORS
from ffdist.plain import table, text_column
from ffdist.report.live import line_of, stages_view

MIB = 2**20
NARROW = 72
"""Columns below which a bar has no room for the speed."""
SILENCE = 30.0
"""Seconds between lines within an epoch where there is no terminal."""


class ConsoleReport:
    """An observer that prints a line an epoch; on a terminal, below them, a bar and the stages at work; elsewhere, in
    long epochs, a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        narrow = console.width < NARROW
        self.progress = Progress(
            text_column("epoch {task.fields[epoch]}", "bold"),
            BarColumn(bar_width=6 if narrow else 16),
            MofNCompleteColumn(),
            text_column("left:" if narrow else "batches, left:"),
            TimeRemainingColumn(compact=True),
            *([] if narrow else [text_column("{task.fields[speed]}")]),
            console=console,
            auto_refresh=False,
        )
        self.live = Live(console=console, refresh_per_second=4, transient=True) if can_redraw(console) else None
        self.task: TaskID | None = None
        self.epochs = 0
        self.steps = 0
        self.spoke = time.monotonic()

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case ProgressMade(step) if self.task is not None:
                self.progress.update(self.task, completed=step)
            case PulseReported():
                self._stages(event)
            case EpochEnded(record):
                self._epoch(record)
            case RunRestarted(restart, limit, reason):
                self.console.print(f"restart {restart} of {limit}: {reason}", soft_wrap=True)
            case RunStopped():
                self.close()
            case _:
                pass

    def close(self) -> None:
        """Stop the live display, so that the terminal is as it was; may be called again."""
        if self.live:
            self.live.stop()

    def _start(self, event: RunStarted) -> None:
        self.epochs = event.epochs
        self.steps = event.steps
        if self.task is not None:  # a restart
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(
            "",
            total=event.steps * event.epochs,
            completed=event.step,
            epoch=f"{event.epoch}/{self.epochs}",
            speed="",
        )
        if self.live:
            self.live.update(self.progress)
            self.live.start()

    def _stages(self, event: PulseReported) -> None:
        speed = event.samples_per_second
        if self.task is not None and speed is not None:
            self.progress.update(self.task, speed=f"{speed:,.0f} samples/s")
        if self.live:
            self.live.update(Group(self.progress, stages_view(event, self.console)))
        elif time.monotonic() - self.spoke >= SILENCE:
            self._print(f"epoch {event.epoch}/{self.epochs}: {line_of(event, self.steps)}")

    def _epoch(self, record: dict[str, Any]) -> None:
        done = record["epoch"]
        if self.task is not None:
            self.progress.update(self.task, epoch=f"{min(done + 1, self.epochs)}/{self.epochs}")
        self._print(f"epoch {done}/{self.epochs}: {epoch_line(record)}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)
        self.spoke = time.monotonic()


def can_redraw(console: Console) -> bool:
    """True if the console is a terminal whose lines can be redrawn."""
    return console.is_terminal and not console.is_dumb_terminal and not console.quiet


def epoch_line(record: dict[str, Any]) -> str:
    """Validation accuracy and speed of one epoch."""
    parts = [f"{speed:,.0f} samples/s"] if (speed := record["train"]["samples_per_second"]) else []
    if "validation" in record:
        accuracy = record["validation"]["accuracy"]
        parts.insert(0, f"validation {accuracy['mean']:.2%} (last block {accuracy['last']:.2%})")
    return ", ".join(parts) or "trained"


def result_tables(records: list[dict[str, Any]], test: dict[str, Any] | None) -> list[Table]:
    """Accuracy by predictor and block; speed and memory by stage. Accuracies are of the test split if there is one."""
    tables = []
    split = test or (records[-1].get("validation") if records else None)
    if split:
        tables.append(accuracy_table(split, "test" if test else "validation"))
    elif records:
        tables.append(_learned(records[-1]["train"]))
    if records:
        tables.append(_stages(records))
    return tables


def _learned(train: dict[str, Any]) -> Table:
    """Accuracy on the samples that were learned from, where no others are measured: what it says of new ones is
    little."""
    rows = table("block", "training accuracy", "training loss", title="No test or validation split: while it learned")
    for block in train["blocks"]:
        accuracy, loss = block.get("accuracy"), block.get("loss")
        rows.add_row(
            block["block"], "-" if accuracy is None else f"{accuracy:.2%}", "-" if loss is None else f"{loss:.4g}"
        )
    return rows


def accuracy_table(split: dict[str, Any], name: str, how: str = "") -> Table:
    """Top-1 and, with more than 5 classes, top-5 accuracy of each predictor and block. how: of the title's end."""
    top5 = split.get("top5")
    headers = ["predictor", f"{name} accuracy", *(["top-5"] if top5 else [])]
    rows = table(*headers, title=f"Accuracy on {split['samples']:,} {name} samples{how}")
    for key, label in PREDICTORS.items():
        if key in split["accuracy"]:
            shares = [split["accuracy"][key], *([top5[key]] if top5 else [])]
            rows.add_row(label, *(f"{share:.2%}" for share in shares), style="bold" if key == "mean" else None)
    for name, value in split.get("metrics", {}).items():
        rows.add_row(f"your {name}", "-" if value is None else f"{value:.4g}")
    for block in split["blocks"]:
        if block["block"] != FUSION:
            shares = [block["accuracy"], *([block.get("top5")] if top5 else [])]
            rows.add_row(f"  block {block['block']}", *("-" if s is None else f"{s:.2%}" for s in shares))
    return rows


def confusion_table(confusion: dict[str, Any]) -> Table:
    """True classes down, predicted ones across; of many classes, the most frequent mistakes alone."""
    names, label = confusion["classes"], PREDICTORS[confusion["predictor"]]
    if len(names) > 20:
        return _mistakes(confusion, f"Most frequent mistakes of {label}")
    rows = table("", *names, title=f"Confusion of {label}: true classes down, predicted ones across")
    for index, (name, row) in enumerate(zip(names, confusion["counts"], strict=True)):
        cells = [Text(str(count), "bold") if column == index else str(count or "") for column, count in enumerate(row)]
        rows.add_row(name, *cells)
    return rows


def _mistakes(confusion: dict[str, Any], title: str) -> Table:
    names, rows = confusion["classes"], table("true class", "predicted", "samples", title=title)
    counted = [
        (count, true, guess)
        for true, row in enumerate(confusion["counts"])
        for guess, count in enumerate(row)
        if count and guess != true
    ]
    for count, true, guess in sorted(counted, key=lambda c: (-c[0], c[1:]))[:20]:
        rows.add_row(names[true], names[guess], str(count))
    return rows


def _stages(records: list[dict[str, Any]]) -> Table:
    last = records[-1]
    speed = f", {speed:,.0f} samples/s" if (speed := last["train"]["samples_per_second"]) else ""
    shares = {"busy": "busy", "no_data": "waits for input", "no_credit": "waits for next"}
    if any("exchange" in stage for stage in last["stages"]):
        shares |= {"exchange": "exchanges", "no_gradients": "waits for others"}
    hides = ["exchange hidden"] if any("hidden" in stage for stage in last["stages"]) else []
    rows = table(
        "stage",
        "blocks",
        *shares.values(),
        *hides,
        *memory_headers(last["stages"]),
        title=f"Stages in the last epoch{speed}",
    )
    places = [stage["stage"] for stage in last["stages"]]
    for stage in last["stages"]:
        texts = [f"{stage.get(key, 0.0) / stage['seconds']:.0%}" for key in shares]
        texts += [f"{stage['hidden']:.0%}" if "hidden" in stage else ""] * len(hides)
        worker = f", worker {stage['worker']}" if places.count(stage["stage"]) > 1 else ""
        rows.add_row(f"{stage['stage']}{worker}", " ".join(stage["blocks"]), *texts, *memory_cells(stage))
    if len({stage.get("process", stage["stage"]) for stage in last["stages"]}) < len(last["stages"]):
        rows.caption = "stages of one process: each shows the memory of the whole process"
    return rows


def memory_headers(stages: list[dict[str, Any]]) -> list[str]:
    """The headings of the memory columns; records of older runs have the process's peak alone."""
    return ["run memory", "process memory"] if "run_bytes" in stages[0] else ["process memory"]


def memory_cells(stage: dict[str, Any]) -> list[str]:
    """A stage's memory in MiB, a cell for each of `memory_headers`."""
    sizes = [stage["run_bytes"], stage["process_bytes"]] if "run_bytes" in stage else [stage["peak_bytes"]]
    return [f"{size / MIB:,.0f} MiB" for size in sizes]
