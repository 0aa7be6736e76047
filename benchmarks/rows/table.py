"""The accuracy tables, drawn from the records alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.marks import put
from benchmarks.rows.record import SUITE, accuracies, costs, layers, seeds, spread
from benchmarks.rows.row import Row
from ffdist.bench.harness.record import Record, read
from ffdist.bench.harness.table import pipes

BEGIN, END = "<!-- accuracy: drawn by `python benchmarks/accuracy.py table` -->", "<!-- /accuracy -->"
COLUMNS = (
    "row",
    "mean of blocks",
    "last block",
    "fusion head",
    "paper",
    "backpropagation: ours",
    "paper's",
    "K",
    "layers",
    "n",
    "epochs",
    "CPU s",
    "machine",
)
WHOLE = Path("docs/ACCURACY.md")
"""The document with every row, below the project's root."""


def redraw(root: Path, rows: Mapping[str, Row], folder: Path) -> None:
    """Write the table between its marks into `WHOLE`, below `root`. folder: the records."""
    put(root / WHOLE, BEGIN, draw_whole(rows, newest(folder)), END)


def newest(folder: Path) -> dict[str, Record]:
    """The latest record of each row, with its `file`."""
    records: dict[str, Record] = {}
    for path in sorted(folder.glob("accuracy-*.json")):
        record = read(path) | {"file": path.with_suffix(".md").name}
        if record["suite"] == SUITE and record["date"] >= records.get(record["row"], record)["date"]:
            records[record["row"]] = record
    return records


def draw(rows: Mapping[str, Row], records: Mapping[str, Record]) -> str:
    """Draw the rows that have a record. A twin stands in the rows of its network and data."""
    ours = [row for row in rows.values() if not row.is_twin and row.name in records]
    return "\n".join([*pipes(COLUMNS, [line(row, rows, records) for row in ours]), ""])


def draw_whole(rows: Mapping[str, Row], records: Mapping[str, Record]) -> str:
    """The table of the rows with a record, and below it that of the rows without one."""
    unrun = [row for row in rows.values() if not row.is_twin and row.name not in records]
    table = [*pipes(COLUMNS, [line(row, rows, records) for row in unrun])]
    parts = [draw(rows, records), f"{len(unrun)} rows, not yet run:", "", *table, ""]
    return "\n".join(parts).replace("](benchmarks/", "](../benchmarks/")


def line(row: Row, rows: Mapping[str, Row], records: Mapping[str, Record]) -> list[str]:
    """The cells of one row of the table."""
    form = f"<br>{row.form}" if row.form else ""
    twin = rows[row.twin] if row.twin else None
    of_twin = [linked(twin, records), paper(twin)] if twin else ["-", "-"]
    r = records.get(row.name)
    if r is None:
        return [f"`{row.name}`{form}", "not yet run", "", "", paper(row), *of_twin, *[""] * 6]
    name = f"[`{row.name}`](benchmarks/records/{r['file']}){form}"
    cost = costs(r)
    ours = [found(r, predictor) for predictor in ("mean", "last", "fusion")]
    counts = [str(len(seeds(r))), str(cost["epochs"]), f"{cost['cpu_seconds']:,}" if "cpu_seconds" in cost else "-"]
    return [name, *ours, paper(row), *of_twin, *crossed(r), *counts, r["machine"]["name"]]


def crossed(r: Record) -> list[str]:
    """The number of modules that learn, and the most layers that a gradient crosses in one of them and its head."""
    learning = [count for count in layers(r).values() if count]
    return [str(len(learning)), str(max(learning))] if learning else ["-", "-"]


def found(r: Record, predictor: str) -> str:
    known = accuracies(r)
    return spread(known[predictor]) if predictor in known else "-"


def linked(twin: Row, records: Mapping[str, Record]) -> str:
    r = records.get(twin.name)
    return f"[{found(r, 'mean')}](benchmarks/records/{r['file']})" if r else "not yet run"


def paper(row: Row) -> str:
    return "-" if row.paper is None else f"{row.paper:.2f}"
