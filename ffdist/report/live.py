"""The stages at work, a row each, below a run's bar in a terminal; and the same in a line."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table
from rich.text import Text

from ffdist.events import PulseReported

MIB = 2**20
SHARES = {
    "busy": "computes",
    "exchange": "adds gradients",
    "no_gradients": "waits for gradients",
    "no_data": "waits for input",
    "no_credit": "waits for next",
}
"""What a stage's time is spent on, as the tables behind a run have it."""
WIDE, MIDDLE = 120, 90
"""Columns of a terminal from which on all is shown, or all but where a stage is and what it holds."""


def stages_table(event: PulseReported, columns: int) -> Table:
    """A row a worker of each stage: its blocks, where its time went since the last report, what its blocks have learned
    in this epoch so far, what it holds. columns: of the terminal; narrow ones get less."""
    shown = {key: head for key, head in SHARES.items() if any(stage.get(key) for stage in event.stages)}
    places = [stage["stage"] for stage in event.stages]
    heads = ["stage", "blocks"]
    heads += list(shown.values()) if columns >= MIDDLE else []
    heads += ["loss", "accuracy"]
    heads += ["queue", "run memory"] if columns >= WIDE else []
    rows = Table(*(Column(head, overflow="fold") for head in heads), box=None, padding=(0, 2, 0, 0))
    for stage in event.stages:
        worker = f", worker {stage['worker']}" if places.count(stage["stage"]) > 1 else ""
        cells = [f"{stage['stage']}{worker}", " ".join(block["block"] for block in stage["blocks"])]
        if columns >= MIDDLE:
            cells += [share(stage, key) for key in shown]
        cells += [each(stage, "loss", ".3g"), each(stage, "accuracy", ".1%")]
        if columns >= WIDE:
            cells += [f"{stage['queued']:.1f}", f"{stage['run_bytes'] / MIB:,.0f} MiB"]
        rows.add_row(*map(Text, cells))
    return rows


def share(stage: dict[str, Any], key: str) -> str:
    return f"{stage.get(key, 0.0) / stage['seconds']:.0%}" if stage["seconds"] > 0 else "-"


def each(stage: dict[str, Any], key: str, form: str) -> str:
    """One text for each block, in order."""
    values = [block[key] for block in stage["blocks"]]
    return " ".join("-" if value is None else format(value, form) for value in values)


def line_of(event: PulseReported, steps: int) -> str:
    """steps: batches an epoch."""
    last = event.stages[-1]["blocks"][-1]
    parts = [f"batch {(event.step - 1) % steps + 1}/{steps}"]
    if event.samples_per_second is not None:
        parts.append(f"{event.samples_per_second:,.0f} samples/s")
    if last["loss"] is not None:
        parts.append(f"last block: loss {last['loss']:.3g}")
    if last["accuracy"] is not None:
        parts.append(f"accuracy {last['accuracy']:.1%} while it learns")
    return ", ".join(parts)
