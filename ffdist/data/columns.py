"""Columns of Arrow tables as pictures, arrays and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffdist.data.images import check_labels
from ffdist.errors import DataError


def samples(column: pa.Array, where: object) -> Sequence[bytes] | np.ndarray | list[np.ndarray]:
    """The samples of an image column: encoded pictures as bytes, or arrays [N, ...] (a list where shapes differ).

    column: binary; a struct with a field `bytes` (as Hugging Face keeps pictures); lists of numbers, nested as [H][W] or
    [H][W][C]; or fixed-shape tensors. Whole numbers in 0..255 become uint8.
    Raises DataError for a missing sample or another type.
    """
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if column.null_count:
        raise DataError("a sample is missing", where=f"{where}, row {first_null(column)}", got="null")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.to_pylist()
    if isinstance(column.type, pa.FixedShapeTensorType):
        return as_bytes(column.to_numpy_ndarray(), where)  # pyright: ignore
    if is_list(column.type):
        return nested(column, where)
    raise DataError("an image column holds encoded pictures or arrays", where=where, got=str(column.type),
                    expected="binary, struct with bytes, nested lists, or fixed_shape_tensor")  # fmt: skip


def nested(column: pa.Array, where: object) -> np.ndarray | list[np.ndarray]:
    """Lists of lists as an array [N, ...]; as one array a row where the rows differ in shape."""
    shape, values = [len(column)], column
    while is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values))
        if len(lengths) != 1 or values.null_count:
            if len(column) == 1:
                raise DataError("a sample's lists differ in length", where=where, expected="one length",
                                got=lengths.to_pylist())  # fmt: skip
            return [nested(column.slice(row, 1), f"{where}, row {row}")[0] for row in range(len(column))]
        shape.append(lengths[0].as_py())
        values = values.flatten()
    return as_bytes(values.to_numpy(zero_copy_only=False).reshape(shape), where)


def as_bytes(array: np.ndarray, where: object) -> np.ndarray:
    """Whole numbers as uint8, others as they are."""
    if array.dtype == np.uint8 or not np.issubdtype(array.dtype, np.integer):
        return array
    if array.size and (array.min() < 0 or array.max() > 255):
        raise DataError("a pixel is out of range", where=where, expected="0..255",
                        got=f"{array.min()}..{array.max()}")  # fmt: skip
    return array.astype(np.uint8)


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def first_null(column: pa.Array | pa.ChunkedArray) -> int:
    return pc.index(pc.is_null(column), pa.scalar(True)).as_py()


def class_names(column: pa.ChunkedArray, named: Sequence[str] | None, where: object) -> list:
    """The values of a label column that are classes, in order: 0..K-1 where they are `named`, else those that occur."""
    if column.null_count:
        raise DataError("a label is missing", where=f"{where}, row {first_null(column)}", got="null")
    values = pc.unique(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_integer(values.type):
        if named is not None:
            return list(range(len(named)))
        check_labels(values.to_numpy(), 2**31, where)
    elif not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError("a label column holds whole numbers or strings", where=where, got=str(values.type))
    return sorted(values.to_pylist())


def label_codes(column: pa.ChunkedArray, classes: Sequence, where: object) -> np.ndarray:
    """int64 [N]: the place of each label in `classes`. Raises DataError naming the row of a label not among them."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    codes = pc.index_in(column, value_set=pa.array(classes).cast(column.type))
    if codes.null_count:
        row = first_null(codes)
        raise DataError("a label is out of range", where=f"{where}, row {row}", expected=some(classes),
                        got=column[row].as_py())  # fmt: skip
    return codes.to_numpy().astype(np.int64)


def some(classes: Sequence) -> str:
    """A list that fits in an error."""
    return ", ".join(map(str, classes)) if len(classes) <= 12 else f"{classes[0]}, {classes[1]}, ... {classes[-1]}"


def named_classes(schema: pa.Schema, label: str) -> list[str] | None:
    """The class names that Hugging Face's metadata give a label column, where there are any."""
    text = (schema.metadata or {}).get(b"huggingface")
    feature = json.loads(text).get("info", {}).get("features", {}).get(label, {}) if text else {}
    return feature.get("names")
