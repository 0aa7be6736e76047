"""Tables of what was measured: kept as tidy rows, drawn for people from these rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ffdist.bench.harness.summary import Summary

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Cell = str | float | int | None
Row = dict[str, Any]
"""A figure: network, rule, side, metric, value, n, spread, unit, and whatever else says what it is of."""
OLD_WORDS = {"least": "min", "most": "max"}
"""Words in the headings and columns of earlier records, and those that stand for them now."""
MEASURED = ("metric", "value", "n", "spread", "unit")
"""The fields of a row that do not say what it is of."""


def spread_of(metric: str) -> dict[str, str]:
    """The columns after a figure's own: its minimum and maximum, and how many there are."""
    return {"min": f"{metric}.min", "max": f"{metric}.max", "n": f"{metric}.n"}


SIDES = {"side": "side", "samples/s": "throughput", **spread_of("throughput"), "ours / it": "ratio"}
"""Columns of a table of sides, beside whose throughput stands ours by it."""


class Value(NamedTuple):
    """A figure as it is kept."""

    value: Cell
    """A median where there are several; words where it is none of numbers."""
    n: int | None = None
    spread: tuple[float, float] | None = None
    """Minimum and maximum."""

    @classmethod
    def of(cls, cell: Cell | Summary | Value) -> Value:
        if isinstance(cell, Value):
            return cell
        if isinstance(cell, Summary):
            return cls(cell.median, cell.n, (cell.min, cell.max)) if cell.n else cls(None, 0)
        return cls(cell)

    def part(self, name: str) -> Cell:
        """name: "value", "n", "min" or "max"."""
        name = OLD_WORDS.get(name, name)
        if name in ("min", "max"):
            return self.spread and self.spread[name == "max"]
        return getattr(self, name)


Line = dict[str, Any]
"""What a line is of, by name, and its `Value`s, by metric."""


@dataclass
class ResultTable:
    """One part of a measurement."""

    part: str
    """The table's name, which each of its rows in the record has."""
    title: str
    columns: Mapping[str, str]
    """The columns of the drawn table: heading -> what is shown below it. That is what a line is of ("side"), a metric
    ("ratio"), or a part of one ("ratio.min", "ratio.max", "ratio.n"); after a colon a format for numbers
    ("hidden:.0%"). Where sides stand side by side in a line, each goes before its own ("ours/throughput", "ddp/side"):
    a baseline by what it was `against`, and not by its variant."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Metric -> unit. All else that a line has says what it is of."""
    lines: list[Line] = field(default_factory=list)

    def add(self, **cells: Cell | Summary | Value) -> None:
        """Add a line: what it is of, by name, and its figures, by metric."""
        self.lines.append({name: Value.of(cell) if name in self.units else cell for name, cell in cells.items()})

    def rows(self) -> list[Row]:
        """A row a figure; what a line lacks has none."""
        return [row for line in self.lines for row in self._rows_of(line)]

    def _rows_of(self, line: Line) -> Iterable[Row]:
        keys = {name: cell for name, cell in line.items() if not isinstance(cell, Value)}
        for metric, value in line.items():
            if isinstance(value, Value) and value.value is not None:
                yield {"part": self.part, **keys, "metric": metric, **value._asdict(), "unit": self.units[metric]}

    def texts(self) -> list[list[str]]:
        """The cells of the drawn table, line by line."""
        return [[formatted_cell(line, what) for what in self.columns.values()] for line in self.drawn_lines()]

    def drawn_lines(self) -> list[Line]:
        """The lines as they are drawn: where sides stand side by side, one for all sides of the same keys."""
        if not any("/" in what for what in self.columns.values()):
            return self.lines
        made: dict[str, Line] = {}
        for line in self.lines:
            keys = {
                name: cell
                for name, cell in line.items()
                if name not in ("side", "against") and not isinstance(cell, Value)
            }
            made.setdefault(repr(sorted(keys.items())), keys)[line.get("against") or line["side"]] = line
        return list(made.values())

    def drawn_cells(self) -> list[dict[str, Cell]]:
        """The drawn table's lines by their headings."""
        lines = self.drawn_lines()
        return [{heading: cell_of(line, what) for heading, what in self.columns.items()} for line in lines]

    def markdown(self) -> str:
        """The drawn table in Markdown, below its title."""
        return "\n".join([*([f"### {self.title}", ""] if self.title else []), *pipes(self.columns, self.texts())])

    def rich(self) -> RichTable:
        from ffdist.plain import table  # a machine that only measures may lack rich

        made = table(title=self.title)
        made.title_justify = "left"
        for heading, what in self.columns.items():
            numbers = all(isinstance(cell_of(line, what), (int, float, type(None))) for line in self.drawn_lines())
            made.add_column(heading, justify="right" if numbers else "left", overflow="fold")
        for line in self.texts():
            made.add_row(*line)
        return made


def pipes(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table in Markdown. A bar within a cell, as plans have them, would end it, in backquotes too."""
    heads = list(heads)
    drawn = (" | ".join(cell.replace("|", r"\|") for cell in cells) for cells in lines)
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {line} |" for line in drawn)]


def lines_of(rows: Iterable[Row], part: str) -> list[Line]:
    """The lines that a part's rows were made of, in order."""
    lines: list[Line] = []
    last: Row = {}
    for row in rows:
        if row["part"] != part:
            continue
        keys = {name: value for name, value in row.items() if name not in MEASURED}
        if keys != last or row["metric"] in lines[-1]:
            lines.append(dict(keys))
            last = keys
        spread = row["spread"] and tuple(row["spread"])
        lines[-1][row["metric"]] = Value(row["value"], row["n"], spread)
    return lines


def cell_of(line: Line, what: str) -> Cell:
    """what: as in `ResultTable.columns`."""
    side, between, what = what.rpartition("/")
    line = line.get(side, {}) if between else line
    name, _, part = what.partition(":")[0].partition(".")
    found = line.get(name)
    return found.part(part or "value") if isinstance(found, Value) else found


def formatted_cell(line: Line, what: str) -> str:
    cell, form = cell_of(line, what), what.partition(":")[2]
    return format(cell, form) if form and isinstance(cell, (int, float)) else cell_text(cell)


def cell_text(value: Cell) -> str:
    """A cell as text; numbers with four digits, as measurements are no more exact."""
    match value:
        case None:
            return "-"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return "-" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
