"""Columns of Arrow tables as pictures, arrays and labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffdist.errors import DataError


def samples(column: pa.Array, where: object, first: int = 0) -> Sequence[bytes] | Sequence[np.ndarray] | np.ndarray:
    """The samples of an image column: encoded pictures as bytes, or arrays [N, ...] (a list where shapes differ).

    column: binary; a struct with a field `bytes` (as Hugging Face keeps pictures); lists of numbers, nested as [H][W]
    or [H][W][C]; or fixed-shape tensors. Whole numbers in 0..255 become uint8. first: row in `where` of the first.
    Raises DataError for a missing sample or another type.
    """
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")  # pyright: ignore
    if column.null_count:
        raise DataError("a sample is missing", where=f"{where}, row {first + first_null(column)}", got="null")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.to_pylist()
    if isinstance(column.type, pa.FixedShapeTensorType):
        return as_bytes(column.to_numpy_ndarray(), f"{where}, row {first} and after")  # pyright: ignore
    if is_list(column.type):
        return nested(column, where, first)
    raise DataError("an image column holds encoded pictures or arrays", where=where, got=str(column.type),
                    expected="binary, struct with bytes, nested lists, or fixed_shape_tensor")  # fmt: skip


def nested(column: pa.Array, where: object, first: int) -> np.ndarray | list[np.ndarray]:
    """Lists of lists as an array [N, ...]; as one array a row where the rows differ in shape."""
    shape, values = [len(column)], column
    while is_list(values.type):
        lengths = values.value_lengths().unique().to_pylist()  # pyright: ignore
        if len(lengths) != 1 or values.null_count:
            if len(column) == 1:
                raise DataError("a sample's lists differ in length", where=f"{where}, row {first}",
                                expected="one length", got=lengths)  # fmt: skip
            return [nested(column.slice(row, 1), where, first + row)[0] for row in range(len(column))]
        shape.append(lengths[0])
        values = values.flatten()
    return as_bytes(values.to_numpy(zero_copy_only=False).reshape(shape), f"{where}, row {first} and after")


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
    return column.is_null().index(True).as_py()


def labels_of(columns: Iterable[pa.Array], where: object) -> pa.ChunkedArray:
    """A label column without dictionaries. Raises DataError for a missing label, or for neither numbers nor strings."""
    plain = [c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in columns]
    if not plain:
        raise DataError("a table has no rows", where=where)
    column = pa.chunked_array(plain)
    if column.null_count:
        raise DataError("a label is missing", where=f"{where}, row {first_null(column)}", got="null")
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    if not any(kind(column.type) for kind in kinds):
        raise DataError("a label column holds whole numbers or strings", where=where, got=str(column.type))
    return column


def label_values(columns: Iterable[pa.ChunkedArray], names: Sequence[str] | None) -> list[int] | list[str]:
    """What stands for class 0, 1, ... in a label column: 0..K-1 for K names, else every string or number >= 0 in it."""
    found = set().union(*(column.unique().to_pylist() for column in columns))
    if all(isinstance(value, int) for value in found):
        return list(range(len(names))) if names else sorted(value for value in found if value >= 0)
    return sorted(found)


def label_codes(column: pa.ChunkedArray, values: Sequence, where: object) -> np.ndarray:
    """int32 [N]: the place of each label in `values`. Raises DataError naming the row of a label not among them."""
    codes = pc.index_in(column, value_set=pa.array(values, column.type))  # pyright: ignore
    if codes.null_count:
        row = first_null(codes)
        known = ", ".join(map(str, values)) if len(values) <= 12 else f"{values[0]}, {values[1]}, ... {values[-1]}"
        raise DataError("a label is out of range", where=f"{where}, row {row}", expected=known,
                        got=column[row].as_py())  # fmt: skip
    return codes.to_numpy()


def names_in(schema: pa.Schema, label: str) -> list[str] | None:
    """The class names that Hugging Face's metadata give a label column, where there are any."""
    text = (schema.metadata or {}).get(b"huggingface")
    feature = json.loads(text).get("info", {}).get("features", {}).get(label, {}) if text else {}
    return feature.get("names")
