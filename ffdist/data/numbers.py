"""Tables of plain numbers: a row a sample, a column a feature, and one column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ffdist.data.column_names import Columns
from ffdist.data.columns import first_null, is_list, nested, plain_column
from ffdist.data.sources.row_splits import NAMES
from ffdist.errors import DataError
from ffdist.notes import listed

ROW_NUMBERS = ("", "unnamed: 0", "__index_level_0__", "index")
"""What tables' writers call the numbers of their rows, in small letters."""


def is_number(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(of_kind(kind) for of_kind in kinds)


def feature_names(schema: pa.Schema, columns: Columns, dropped: Sequence[str] = ()) -> list[str]:
    """The columns that are learned from: all but those of labels, groups, splits and row numbers, and dropped ones."""
    others = {columns.label, columns.group, *dropped}
    return [
        field.name
        for field in schema
        if field.name not in others
        and field.name.strip().casefold() not in ROW_NUMBERS
        and not (field.name.casefold() in NAMES and not is_number(field.type))
    ]


def features(table: pa.Table, names: Sequence[str], where: object, leave: str) -> np.ndarray:
    """float32 [N, F] of these columns; or [N, *shape] of the only one, where that holds arrays. leave: how a column is
    left out, which may have its {name}.

    Raises DataError naming the column and row of what is no number.
    """
    if not names:
        raise DataError(
            "a table has no columns of numbers",
            where=where,
            expected="columns beside that of labels",
            got=listed(table.column_names, 12),
        )
    if len(names) == 1 and is_list(plain_column(table[names[0]].combine_chunks()).type):
        found = nested(plain_column(table[names[0]].combine_chunks()), f"{where}, column {names[0]}", 0)
        if isinstance(found, list):
            raise DataError(
                "rows hold arrays of several shapes", where=f"{where}, column {names[0]}", expected="one shape"
            )
        return found.astype(np.float32)
    x = np.empty((len(table), len(names)), np.float32)
    for place, name in enumerate(names):
        x[:, place] = numbers_of(table[name], name, where, leave.format(name=name))
    return x


def numbers_of(column: pa.ChunkedArray, name: str, where: object, leave: str) -> np.ndarray:
    """float [N]. Raises DataError for another type, and for a row without a number."""
    values = plain_column(column.combine_chunks())
    if isinstance(values, pa.ChunkedArray):  # Arrow's own choice, where a column is larger than an array can be
        values = pa.concat_arrays(values.chunks)
    if not is_number(values.type):
        row, got = first_text(values)
        raise DataError(
            "a column holds no numbers",
            where=f"{where}, column {name}, row {row}",
            expected="numbers in every column but that of labels",
            got=got,
            remedy=f"{leave}; or write its values as numbers",
        )
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if values.null_count:
        raise DataError(
            "a number is missing",
            where=f"{where}, column {name}, row {first_null(values)}",
            expected="a number",
            got=f"{values.null_count:,} rows without one",
            remedy=f"fill it, e.g. by the column's mean, or leave the row out; {leave}",
        )
    array = values.to_numpy(zero_copy_only=False).astype(np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(array))):
        raise DataError(
            "a number is not finite",
            where=f"{where}, column {name}, row {bad[0]}",
            got=array[bad[0]],
            expected="a finite number",
            remedy=f"fill it, or leave the row out; {leave}",
        )
    return array


def first_text(values: Any) -> tuple[int, object]:
    """The first row whose value is no number's text, and the value."""
    for row, value in enumerate(values.to_pylist()):
        try:
            float(value)
        except (TypeError, ValueError):
            return row, repr(value) if value is not None else "null"
    return 0, values.type


def describe_columns(names: Sequence[str], x: np.ndarray, label: str) -> str:
    """A note on the columns: the label, and those that it is learned from."""
    if x.ndim > 2:
        return f"samples {list(x.shape[1:])} of column '{names[0]}', labels of column '{label}'"
    if len(names) == 1:
        return f"the numbers of column '{names[0]}' are the samples, column '{label}' has the labels"
    return f"{len(names)} columns of numbers are the samples ({listed([*names], 6)}), column '{label}' has the labels"
