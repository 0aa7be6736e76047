"""A `pyarrow.Table`, or what Arrow can take for one, as a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from ffdist.data.arrays import as_floats_checked, as_picture
from ffdist.data.column_names import IMAGE, Columns, found_columns, taken_columns_note
from ffdist.data.columns import LabelRemedies, column_labels, column_samples, names_in, plain_column
from ffdist.data.depth import Range
from ffdist.data.held_out import grouped, is_share, with_shares
from ffdist.data.images import Images
from ffdist.data.labelled import LabelledSplit
from ffdist.data.labels import Labels
from ffdist.data.memory import assembled, stacked
from ffdist.data.numbers import describe_columns as summary
from ffdist.data.numbers import feature_names, features
from ffdist.data.reading import DEFAULT_READING, Reading
from ffdist.data.sources.row_splits import check_one_split
from ffdist.data.survey import SurveyReader
from ffdist.data.table_words import UNREADABLE, unreadable_remedy, words_of
from ffdist.errors import DataError
from ffdist.notes import note


def from_arrow(
    table: pa.Table,
    *,
    image: str = "image",
    label: str = "label",
    group: str | None = None,
    test: pa.Table | float | None = None,
    validation: pa.Table | float | None = None,
    seed: int = 0,
    classes: Any = None,
    channels_last: bool | None = None,
    normalize: bool = False,
    value_range: Range | None = None,
    name: str = "table",
) -> Images:
    """A table with a column of samples and a column of labels; a frame of pandas or Polars, or a `datasets.Dataset`.

    image: encoded pictures, or paths of their files; arrays [H, W] or [H, W, C] of whole numbers in 0..255; or floats
        of any shape, left as they are unless `normalize`. label: whole numbers or names; those that occur become 0..K-1
        in sorted order. Where there is no such column, the only one with a similar name is taken, and a note says so;
        where none can hold the samples, all columns of numbers are these, scaled by mean and deviation.
    test, validation: tables with the same columns; or a share of the rows, 0.2, drawn by class and by `seed`. group: a
        column whose equal values stay on one side.
    classes: K names; names among the labels are matched to them, whole numbers are their places.
    channels_last, normalize: as in `from_tensors`. value_range: black and white in pictures of more than 8 bits; None:
        0 and 65535 for 16 bits, which they must need. Raises DataError for anything else, naming the row.
    """
    reading = Reading(image, label, channels_last, value_range, group=group)
    tables = {"train": table, "test": test, "validation": validation}
    splits = {
        split: labelled_rows(data, f"data set {name}, {split}", reading)
        for split, data in tables.items()
        if data is not None and not is_share(data)
    }
    splits = with_shares(in_one_order(splits), test, validation, seed)
    return assembled(name, splits, classes, renumber=True, normalize=normalize, channels_last=channels_last)


def labelled_rows(data: Any, where: str, reading: Reading = DEFAULT_READING, given: Any = None) -> LabelledSplit:
    """A table's samples and labels, and the class names that its metadata give. given: what its user has it as, where
    that is not `data`. Raises DataError as `from_arrow`."""
    table = as_table(data, where)
    columns = Columns(reading.image, reading.label, reading.group)
    found = found_columns(table.column_names, columns)
    reading = replace(reading, image=found.image, label=found.label)
    if text := taken_columns_note(found, columns, ("image=", "label=")):
        note(f"{where}: {text}")
    check_one_split(table, [name for name in found if name], where)
    words = words_of(data if given is None else given)
    remedies = LabelRemedies(
        f"leave unlabelled rows out: {words.labelled.format(name=found.label)}; where it is a class, give all as names",
        f"each different value as a class: {words.as_texts.format(name=found.label)}",
    )
    labels = column_labels(column(table, reading.label, where), where, names_in(table.schema, reading.label), remedies)
    if found.image == IMAGE and IMAGE not in table.column_names:
        found_split = numbers_in(table, found, labels, where, f"leave the column out: {words.dropped}")
    else:
        found_split = pictures_in(table, labels, where, reading)
    groups = None if found.group is None else table_column(table, found.group, where)
    return grouped(found_split, groups, where)


def numbers_in(table: pa.Table, columns: Columns, labels: Labels, where: str, leave: str) -> LabelledSplit:
    """Samples float32 [N, F] of all columns but those of labels and groups. leave: as of `features`. Raises DataError
    for what is no number."""
    names = feature_names(table.schema, columns)
    x = features(table, names, where, leave)
    note(f"{where}: {summary(names, x, columns.label)}; each is scaled by mean and deviation of the training split")
    return LabelledSplit(x, labels, numbers=True, columns=tuple(names))


def in_one_order(splits: dict[str, LabelledSplit]) -> dict[str, LabelledSplit]:
    """Columns of numbers of all splits as the first has them. Raises DataError for a split with others."""
    first = next(iter(splits.values())).columns
    found = {}
    for split, data in splits.items():
        if {*data.columns} != {*first} and first and data.columns:
            raise DataError(
                "splits have columns of other names",
                where=split,
                expected=", ".join(first),
                got=", ".join(data.columns),
                remedy="give all splits the same columns of numbers",
            )
        places = [data.columns.index(name) for name in first if data.columns]
        if places != sorted(places) and isinstance(data.samples, np.ndarray):
            data = data._replace(samples=data.samples[:, places], columns=first)
        found[split] = data
    return found


def table_column(table: pa.Table, name: str, where: str) -> list:
    """A column's values as Python objects, row by row. Raises DataError where there is no such column."""
    return [value for chunk in column(table, name, where) for value in plain_column(chunk).to_pylist()]


def pictures_in(table: pa.Table, labels: Labels, where: str, reading: Reading) -> LabelledSplit:
    """The pictures of the column of samples, decoded, with their labels."""
    reader = reading.reader()
    found = stacked(pictures(table, where, reading, reader), len(table), where)
    reader.finish(where)
    return LabelledSplit(found, labels, reader.decoding, reader.files == len(found))


def as_table(data: Any, where: str) -> pa.Table:
    """Any table, frame or `datasets.Dataset` as an Arrow table. Raises DataError for what Arrow cannot convert."""
    if hasattr(data, "with_format") and hasattr(data, "column_names"):  # a datasets.Dataset, whose rows may be chosen
        data = data.with_format("arrow")[:]
    try:
        return data if isinstance(data, pa.Table) else pa.table(paths_as_texts(data))
    except UNREADABLE as error:
        got = str(error).strip().splitlines()[0]
        raise DataError(
            "a table cannot be read",
            where=where,
            expected="a table of Arrow, or what it takes for one",
            got=f"{type(data).__name__}: {got}",
            remedy=unreadable_remedy(data, got),
        ) from error


def paths_as_texts(data: Any) -> Any:
    """A frame of pandas or Polars whose columns of paths, as `pathlib` has them, are texts, which Arrow knows. Of
    Polars' columns of objects Arrow would get the places in memory."""
    if not hasattr(data, "dtypes") or not hasattr(data, "columns"):
        return data
    of_polars, names = hasattr(data, "with_columns"), list(data.columns)
    found = {name: data[name] for name in names if names.count(name) == 1 and str(data[name].dtype).lower() == "object"}
    texts = {
        name: [str(value) if isinstance(value, PurePath) else value for value in column]
        for name, column in found.items()
        if of_polars or any(isinstance(value, PurePath) for value in column)
    }
    if of_polars:
        return data.with_columns(*(type(found[name])(name, values) for name, values in texts.items()))
    return data.assign(**texts) if texts and all(isinstance(name, str) for name in texts) else data


def column(table: pa.Table, name: str, where: str) -> list[pa.Array]:
    """A column's chunks."""
    if name not in table.column_names:
        raise DataError(
            "a table lacks a column",
            where=where,
            expected=name,
            got=", ".join(table.column_names),
            remedy="name them by image= and label=: ffdist.from_arrow(table, image=..., label=...)",
        )
    if table.column_names.count(name) > 1:
        raise DataError(
            "a table has a column twice",
            where=where,
            expected=f"one '{name}'",
            got=", ".join(table.column_names),
            remedy="rename one of them: table.rename_columns([...])",
        )
    return table[name].chunks


def pictures(table: pa.Table, where: str, reading: Reading, reader: SurveyReader) -> Iterator[np.ndarray]:
    """uint8 [H, W, C], or float32 of any shape."""
    row = 0
    for chunk in column(table, reading.image, where):
        for data in column_samples(chunk, where, row, value_range=reading.value_range):
            at = f"{where}, row {row}"
            if not isinstance(data, np.ndarray):
                yield reader.read(data, at)
            elif data.dtype.kind == "f":
                yield as_floats_checked(data[None], at, reading.channels_last)[0]
            else:
                yield as_picture(data, at, reading.channels_last)
            row += 1
