"""Remedies for tables in memory with columns that cannot be read, in the words of the tables' own libraries."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pyarrow as pa

UNREADABLE = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow raises for what it has no type for."""
PICTURES = (
    "for a column of arrays: from_tensors(numpy.stack(list(table['image'])), table['label']); of Pillow's pictures: "
    "from_dataset(list(zip(table['image'], table['label'])))"
)


class TableWords(NamedTuple):
    """Expressions of a library, with the {name} of a column."""

    labelled: str
    """The rows whose label is not below 0."""
    dropped: str
    """The table without the column."""
    as_texts: str
    """The table with the column's values as texts."""


OF_ROWS = "dataset.filter(lambda row: row[{name!r}] >= 0)"
WORDS = {
    "pandas": TableWords(
        "table[table[{name!r}] >= 0]", "table.drop(columns={name!r})", "table.astype({{{name!r}: str}})"
    ),
    "polars": TableWords(
        "table.filter(polars.col({name!r}) >= 0)",
        "table.drop({name!r})",
        "table.with_columns(polars.Series({name!r}, [str(value) for value in table[{name!r}]]))",
    ),
    "datasets": TableWords(
        OF_ROWS, "dataset.remove_columns({name!r})", "dataset.map(lambda row: {{{name!r}: str(row[{name!r}])}})"
    ),
    "ray": TableWords(
        OF_ROWS, "dataset.drop_columns([{name!r}])", "dataset.map(lambda row: {{**row, {name!r}: str(row[{name!r}])}})"
    ),
    "pyarrow": TableWords(
        "table.filter(pyarrow.compute.field({name!r}) >= 0)",
        "table.drop_columns({name!r})",
        "table.set_column(table.column_names.index({name!r}), {name!r}, "
        "pyarrow.array([str(value) for value in table[{name!r}].to_pylist()]))",
    ),
}


def words_of(data: Any) -> TableWords:
    """The words of a table's library; Arrow's own for others'."""
    return WORDS.get(type(data).__module__.partition(".")[0], WORDS["pyarrow"])


def unreadable_remedy(data: Any, got: str) -> str:
    """The remedy for a table that Arrow refuses. got: its own words."""
    if "Duplicate column names" in got:
        return "name each once: table.loc[:, ~table.columns.duplicated()]"
    if re.search("arra|Image", got) or (name := first_unreadable(data)) is None:
        return PICTURES
    words, kind = words_of(data), str(data[name].dtype)
    left_out = f"leave it out: {words.dropped.format(name=name)}"
    if kind.startswith("Sparse"):
        return (
            "table.astype({name: kind.subtype for name, kind in table.dtypes.items() if isinstance(kind, "
            "pandas.SparseDtype)})"
        )
    if kind.startswith("complex"):
        return f"{left_out}; as labels, {words.as_texts.format(name=name)}"
    if kind in ("Int128", "UInt128"):
        return "table.cast({polars.Int128: polars.Int64, polars.UInt128: polars.UInt64})"
    if kind == "object" and "too large" not in got:
        return f"one type in column {name}: {words.as_texts.format(name=name)}, or pandas.to_numeric; or {left_out}"
    return f"table.astype({{{name!r}: 'float64'}}); as labels, {words.as_texts.format(name=name)}"


def first_unreadable(data: Any) -> str | None:
    """The first column of a frame that Arrow has no type for; None where all are read by themselves."""
    for name in getattr(data, "columns", ()):
        try:
            pa.table(data[[name]])
        except UNREADABLE:
            return name
    return None
