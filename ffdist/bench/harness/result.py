"""A suite's results: tables for people, a summary for programs, lines for a plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ffdist.bench.harness.table import ResultTable, Row

Progress = Callable[[str], None]
"""Is told, in a line, what is going on."""


@dataclass(frozen=True)
class Plot:
    """Bars (one a name) or lines (one a series) with their spread."""

    kind: Literal["bars", "lines"]
    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[Any, float, float, float]]]
    """The points of each: (x, median, least, most)."""
    log_x: bool = False


@dataclass
class BenchResult:
    """The result of one suite."""

    suite: str
    summary: dict[str, Any] | list[dict[str, Any]]
    """What --json prints."""
    tables: list[ResultTable]
    """Those with a title are shown; the others are in the record alone."""
    notes: list[str] = field(default_factory=list)
    plot: Plot | None = None

    def rows(self) -> list[Row]:
        return [row for table in self.tables for row in table.rows()]
