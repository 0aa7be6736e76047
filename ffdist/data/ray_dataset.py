"""A `ray.data.Dataset` as a data set in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ffdist.data.arrow_table import labelled_rows
from ffdist.data.depth import Range
from ffdist.data.held_out import is_share, with_shares
from ffdist.data.images import Images
from ffdist.data.labelled import LabelledSplit
from ffdist.data.memory import assembled
from ffdist.data.reading import DEFAULT_READING, Reading
from ffdist.data.storing import as_encoded_bytes
from ffdist.errors import DataError

ROWS = 1024
"""Rows that are fetched at once."""


def from_ray(
    dataset: Any,
    *,
    test: Any = None,
    validation: Any = None,
    image: str = "image",
    label: str = "label",
    group: str | None = None,
    seed: int = 0,
    classes: Any = None,
    channels_last: bool | None = None,
    normalize: bool = False,
    value_range: Range | None = None,
    name: str = "ray",
) -> Images:
    """A data set of `ray.data.Dataset`s, read once, now, in the order of their rows.

    image: a column of encoded pictures; of uint8 arrays [H, W] or [H, W, C]; or of floats of any one shape. label:
        whole numbers or names. Where nothing is called so, columns are found as `from_arrow` finds them; where none can
        hold the samples, all columns of numbers are these.
    test, validation: other such data sets, or a share of the rows, 0.2, drawn by class and by `seed`; group: a column
        whose equal values stay on one side.
    classes: K names; default: the names that occur, or the numbers up to the largest label.
    channels_last, normalize, value_range: as in `from_arrow`.
    Raises DataError for columns that are missing or not so.
    """
    reading = Reading(image, label, channels_last, value_range, group=group)
    given = {"train": dataset, "test": test, "validation": validation}
    splits = {
        split: labelled_ray_rows(each, f"data set {name}, {split}", reading)
        for split, each in given.items()
        if each is not None and not is_share(each)
    }
    splits = with_shares(splits, test, validation, seed)
    return assembled(name, splits, classes, normalize=normalize, channels_last=channels_last)


def labelled_ray_rows(dataset: Any, where: str, reading: Reading = DEFAULT_READING) -> LabelledSplit:
    """One split of a `ray.data.Dataset`, read in the order of its rows."""
    return labelled_rows(as_arrow(dataset, where, reading), where, reading, given=dataset)


def as_arrow(dataset: Any, where: str, reading: Reading) -> pa.Table:
    """The chosen columns as an Arrow table, or all where the usual ones are missing and others may be meant.

    Raises DataError for no rows, and for columns that Arrow has no type for.
    """
    if not hasattr(dataset, "iter_batches"):
        raise DataError(
            "a split is no data set of Ray's",
            where=where,
            expected="a ray.data.Dataset, or a share",
            got=type(dataset).__name__,
        )
    names = [name for name in (reading.image, reading.label, reading.group) if name]
    options = dataset.context.execution_options
    order, options.preserve_order = options.preserve_order, True
    try:
        if {*names} <= {*(dataset.columns() or ())}:
            dataset = dataset.select_columns(names)
        batches = dataset.materialize().iter_batches(batch_size=ROWS, batch_format="pyarrow")
        tables = [with_arrow_tensors(batch, where) for batch in batches if len(batch)]
    finally:
        options.preserve_order = order
    if not tables:
        raise DataError("there is no sample", where=where)
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(
            "rows differ in type or shape",
            where=where,
            expected="samples that all are alike",
            got=str(error).splitlines()[0],
            remedy="bring all to one size and type, by the data set's map()",
        ) from error


def with_arrow_tensors(batch: pa.Table, where: str) -> pa.Table:
    """A batch with Arrow's tensor types in place of Ray's."""
    for place, column in enumerate(batch.columns):
        if isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.FixedShapeTensorType):
            name = batch.column_names[place]
            batch = batch.set_column(place, name, tensors(column, f"{where}, column '{name}'"))
    return batch


def tensors(column: pa.ChunkedArray, where: str) -> pa.Array:
    """Tensors of arrays; Pillow's pictures as PNG. Raises DataError for arrays of several shapes, and for what is
    neither."""
    values = [value for chunk in column.chunks for value in chunk.to_numpy(zero_copy_only=False)]
    if all(isinstance(value, Image.Image) for value in values):
        return pa.array([as_encoded_bytes(value) for value in values], pa.binary())
    arrays = [np.asarray(value) for value in values]
    if any(array.dtype.kind == "O" for array in arrays):
        raise DataError(
            "a column holds Python objects",
            where=where,
            expected="arrays, numbers, texts, or bytes",
            got=type(values[0]).__name__,
            remedy="numpy.asarray(...), by the data set's map()",
        )
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise DataError(
            "samples differ in shape",
            where=where,
            expected=shapes[0],
            got=shapes[1],
            remedy="bring all to one size, by the data set's map()",
        )
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(arrays))
