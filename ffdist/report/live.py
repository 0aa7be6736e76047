"""The stages at work, a row each, below a run's bar in a terminal; and the same in a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from ffdist.events import PulseReported

MIB = 2**20
SHARES = {
    "busy": "computes",
    "exchange": "exchanges",
    "no_gradients": "waits for\nothers",
    "no_data": "waits for\ninput",
    "no_credit": "waits for\nnext",
}
"""What a stage's time is spent on, as the tables after a run have it."""
ROOM = 8
"""Lines of a terminal that the bar and the epochs' lines need beside the stages."""


class LiveColumn(NamedTuple):
    """A column: what it says of a stage, and whether a narrow terminal goes without it (the highest first)."""

    head: str
    cell: Callable[[dict[str, Any]], str]
    spare: int = 0
    folds: bool = False
    """Whether it may go on below, a word or more a line."""


def stages_view(event: PulseReported, console: Console) -> Group:
    """A row a worker of each stage: its blocks and place, where its time went since the last report, what its blocks
    have learned in this epoch so far, what it holds. Where a terminal has no room for all beside one another, what it
    learned and holds comes below; a narrower one gets less."""
    work, learning = columns_of(event, tall=console.height - ROOM)
    stage = work[0]
    if width_of(whole := table_of(event, [*work, *learning]), console).maximum <= console.width:
        return Group(whole)
    if 2 * len(event.stages) > console.height - ROOM:
        return Group(narrowed(event, [*work, *learning], console))
    return Group(narrowed(event, work, console), narrowed(event, [stage, *learning], console))


def columns_of(event: PulseReported, *, tall: int) -> tuple[list[LiveColumn], list[LiveColumn]]:
    """Columns of a stage's work, and of what it learned and holds. tall: lines that there are: with enough of them,
    each block has its own."""
    stages = event.stages
    lines = sum(len(stage["blocks"]) for stage in stages)
    between = "\n" if 2 * lines <= tall else " "
    folds = between == " "
    work = [
        LiveColumn("stage", lambda stage: str(stage["stage"])),
        LiveColumn("worker", lambda stage: str(stage["worker"]), 7),
        LiveColumn("device", lambda stage: str(stage.get("device", "-")), 8),
        LiveColumn("samples/s", lambda stage: rate(stage), 4),
        *(
            LiveColumn(head, lambda stage, key=key: share(stage, key), 0 if key == "busy" else 3)
            for key, head in SHARES.items()
            if any(stage.get(key) for stage in stages)
        ),
        LiveColumn("queue", lambda stage: f"{stage['queued']:.1f}", 5),
    ]
    learning = [
        LiveColumn("blocks", lambda stage: between.join(block["block"] for block in stage["blocks"]), folds=folds),
        LiveColumn("loss", lambda stage: per_block_texts(stage, "loss", ".3g", between), 1, folds=folds),
        LiveColumn("accuracy", lambda stage: per_block_texts(stage, "accuracy", ".1%", between), folds=folds),
        LiveColumn("run\nmemory", lambda stage: f"{stage['run_bytes'] / MIB:,.0f} MiB", 2),
        LiveColumn("process\nmemory", lambda stage: f"{stage['process_bytes'] / MIB:,.0f} MiB", 6),
    ]
    return work, learning


def table_of(event: PulseReported, shown: Sequence[LiveColumn]) -> Table:
    heads = (Column(each.head, overflow="fold", no_wrap=not each.folds) for each in shown)
    rows = Table(*heads, box=None, padding=(0, 2, 0, 0))
    for stage in event.stages:
        rows.add_row(*(Text(each.cell(stage)) for each in shown))
    return rows


def width_of(rows: Table, console: Console) -> Measurement:
    return console.measure(rows, options=console.options.update(max_width=10**4))


def least_width(event: PulseReported, shown: Sequence[LiveColumn], console: Console) -> int:
    """Columns that do not fold are as wide as their longest line: "31 MiB" in two is cut."""
    folding = [each for each in shown if each.folds]
    fixed = [each for each in shown if not each.folds]
    folded = width_of(table_of(event, folding), console).minimum if folding else 0
    return folded + width_of(table_of(event, fixed), console).maximum


def narrowed(event: PulseReported, shown: list[LiveColumn], console: Console) -> Table:
    """The columns without those that can be spared, one after the other, until the rest has room."""
    while True:
        if least_width(event, shown, console) <= console.width or not any(each.spare for each in shown):
            return table_of(event, shown)
        spared = max(shown, key=lambda each: each.spare)
        shown = [each for each in shown if each is not spared]


def rate(stage: dict[str, Any]) -> str:
    """A stage's samples/s since the last report."""
    return f"{stage['samples'] / stage['seconds']:,.0f}" if stage.get("samples") and stage["seconds"] > 0 else "-"


def share(stage: dict[str, Any], key: str) -> str:
    """The share of a stage's time that `key` took, in per cent."""
    return f"{stage.get(key, 0.0) / stage['seconds']:.0%}" if stage["seconds"] > 0 else "-"


def per_block_texts(stage: dict[str, Any], key: str, form: str, between: str = " ") -> str:
    """One text for each block, in order."""
    values = [block[key] for block in stage["blocks"]]
    return between.join("-" if value is None else format(value, form) for value in values)


def line_of(event: PulseReported, steps: int) -> str:
    """One line for a log: batch, speed, and the last block's loss and accuracy. steps: batches in an epoch."""
    last = event.stages[-1]["blocks"][-1]
    parts = [f"batch {(event.step - 1) % steps + 1}/{steps}"]
    if event.samples_per_second is not None:
        parts.append(f"{event.samples_per_second:,.0f} samples/s")
    if last["loss"] is not None:
        parts.append(f"last block: loss {last['loss']:.3g}")
    if last["accuracy"] is not None:
        parts.append(f"accuracy {last['accuracy']:.1%} while it learns")
    return ", ".join(parts)
