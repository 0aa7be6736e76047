"""A suite's results: tables for people, a summary for programs, lines for a plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ffdist.bench.harness.table import ResultTable, Row, Value

Progress = Callable[[str], None]
"""Called with a line of text on what is being measured."""
Series = dict[str, list[tuple[Any, float, float, float]]]


@dataclass(frozen=True)
class Plot:
    """Bars (one a name) or lines (one a series) with their spread."""

    kind: Literal["bars", "lines"]
    title: str
    x_label: str
    y_label: str
    series: Series
    """The points of each: (x, median, minimum, maximum)."""
    log_x: bool = False
    log_y: bool = False

    @classmethod
    def bars_of(cls, table: ResultTable, metric: str, label: str) -> Plot:
        """A bar plot of `metric`, one bar for each side that has it. label: of the vertical axis."""
        return cls("bars", table.title, "", label, series_of(table, metric, "", "side"))

    @classmethod
    def lines_of(
        cls, table: ResultTable, metric: str, label: str, x: str, x_label: str, *, log_x: bool = False
    ) -> Plot:
        """A line for ours, and for each of what it is against. x: what each of a table's lines is of."""
        return cls("lines", table.title, x_label, label, series_of(table, metric, x, "against"), log_x)


def series_of(table: ResultTable, metric: str, x: str, name: str) -> Series:
    """name: of what stands in a line the name of its series; its side, where there is nothing."""
    series: Series = {}
    for line in table.lines:
        value = line.get(metric)
        if isinstance(value, Value) and isinstance(middle := value.value, (int, float)):
            low, high = value.spread or (middle, middle)
            series.setdefault(line.get(name) or line["side"], []).append((line.get(x, ""), middle, low, high))
    return series


@dataclass
class BenchResult:
    """The result of one suite."""

    suite: str
    summary: dict[str, Any] | list[dict[str, Any]]
    """What --json prints."""
    tables: list[ResultTable]
    """Tables with a title are shown; others are in the record alone."""
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None

    def rows(self) -> list[Row]:
        return [row for table in self.tables for row in table.rows()]
