"""A finished or running run in a few tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ffdist.pipeline.predictors import PREDICTORS
from ffdist.plain import levels, table
from ffdist.report.console import result_tables
from ffdist.report.figure import curves

WIDTH = 16
"""Characters of a curve at most."""


def epochs(records: Sequence[object]) -> str:
    """The number of epochs in words."""
    return f"{len(records)} epoch{'s' * (len(records) != 1)}"


def summary(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], records: list[dict[str, Any]], end: dict[str, Any] | None
) -> list[Table]:
    """Summarise a run: settings, how each block learned, results.

    end: the run log's last line, {"test", "reason"}; None while the run goes on, or where it was cut off.
    """
    tables = [settings_table(settings, defaults, state_of(records, end))]
    if records:
        tables.append(curve_table(records))
    return tables + result_tables(records, end["test"] if end else None)


def state_of(records: Sequence[Mapping[str, Any]], end: Mapping[str, Any] | None) -> str:
    """The run's state in a line: how it ended, its epochs, and its seconds of training."""
    seconds = sum(max(stage["seconds"] for stage in record["stages"]) for record in records)
    return f"{end['reason'] if end else 'not at its end'}, {epochs(records)} in {seconds:,.1f} s"


def settings_table(settings: Mapping[str, Any], defaults: Mapping[str, Any], state: str) -> Table:
    """The settings that name the run, and those that differ from the defaults."""
    rows = table("setting", "value", title=state)
    for name, value in settings.items():
        if name in ("data", "model", "objective", "epochs") or value != defaults[name]:
            shown = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
            rows.add_row(name.replace("_", "-"), shown)
    return rows


def starts_table(starts: Sequence[Mapping[str, Any]]) -> Table:
    """Each time that the run began or went on: when, where, by what command, and with what."""
    rows = table("began", "command", "made with", "host")
    for start in starts:
        commit = start.get("commit", "unknown")
        source = f" at {commit}" if commit != "unknown" else ""
        made = [f"ffdist {start.get('ffdist')}{source}", *(f"{name} {start.get(name)}" for name in ("torch", "python"))]
        host = f"{start.get('host')}, {start.get('accelerators') or 'cpu'}"
        rows.add_row(str(start.get("began")), str(start.get("command")), ", ".join(made), host)
    return rows


def curve_table(records: Sequence[dict[str, Any]]) -> Table:
    """A row a block: its training loss, and its accuracy on the validation split, or on the training split."""
    split = "validation" if "validation" in records[-1] else "train"
    rows = table("block", "training loss", f"{split} accuracy", "last", "best", title=epochs(records))
    losses, shares = curves(records, "train", "loss"), curves(records, split, "accuracy")
    for name in losses:
        rows.add_row(name, _change(losses[name]), *_course(shares[name]))
    if split == "validation":
        rows.add_section()
        for key in ("mean", "weighted"):
            rows.add_row(PREDICTORS[key], "", *_course([record[split]["accuracy"].get(key) for record in records]))
    return rows


def _change(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[0]:.3g} -> {known[-1]:.3g}" if known else "-"


def _course(values: Sequence[float | None]) -> tuple[str, str, str]:
    """A curve, the last value, and the best one with its epoch (from 1)."""
    known = [(value, epoch) for epoch, value in enumerate(values, 1) if value is not None]
    if not known:
        return "-", "-", "-"
    best, epoch = max(known, key=lambda pair: pair[0])
    return sparkline([value for value, _ in known]), f"{known[-1][0]:.2%}", f"{best:.2%} in {epoch}"


def sparkline(values: Sequence[float]) -> str:
    """A curve in at most 16 characters, from its least (low) to its greatest value (high)."""
    step = max(1, -(-len(values) // WIDTH))
    kept = list(reversed(values[::-1][::step]))
    low, span = min(kept), max(kept) - min(kept)
    bars = levels()
    return "".join(bars[int((value - low) / span * (len(bars) - 1)) if span else 0] for value in kept)
