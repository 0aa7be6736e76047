"""What a theme found out: tables for people, a summary for programs, lines for a plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table

from ffdist.plain import table

Cell = str | float | int | None
Progress = Callable[[str], None]
"""Is told, in a line, what is going on."""


@dataclass(frozen=True)
class Grid:
    """A table: one mapping a row, with the same keys; None is a dash."""

    title: str
    rows: list[dict[str, Cell]]

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    def texts(self) -> list[list[str]]:
        return [[shown(row.get(column)) for column in self.columns] for row in self.rows]

    def rich(self) -> Table:
        made = table(title=self.title)
        made.title_justify = "left"
        for column in self.columns:
            numeric = all(isinstance(row.get(column), (int, float, type(None))) for row in self.rows)
            made.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in self.texts():
            made.add_row(*row)
        return made

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.texts()])


@dataclass(frozen=True)
class Plot:
    """Bars (one a name) or lines (one a series) with their spread."""

    kind: Literal["bars", "lines"]
    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[Any, float, float, float]]]
    """Of each: (x, median, least, most)."""
    log_x: bool = False


@dataclass
class Finding:
    """The result of one theme."""

    theme: str
    summary: dict[str, Any] | list[dict[str, Any]]
    """What --json prints."""
    grids: list[Grid]
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None


def shown(value: Cell) -> str:
    """Four digits are enough for what is measured."""
    match value:
        case None:
            return "-"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return "-" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
