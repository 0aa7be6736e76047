"""Labels of any kind as whole numbers, and what the numbers are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffdist.data.arrays import as_array
from ffdist.errors import DataError

FRACTIONS = (
    "only classes are learned, no regression; classes of targets: "
    "numpy.unique(numpy.digitize(y, numpy.quantile(y, [0.25, 0.5, 0.75])), return_inverse=True)[1]"
)
A_CLASS = "where it is a class: numpy.unique(y, return_inverse=True)[1]"
LEAVE_OUT = f"leave unlabelled samples out: x[y >= 0], y[y >= 0]; {A_CLASS}"
LEAVE_OUT_OF_FILE = "leave unlabelled rows out of the file; where it is a class, write all classes as names"


@dataclass(frozen=True)
class Labels:
    """The labels of a split's samples, one each."""

    numbers: np.ndarray
    """int64 [N], none negative."""
    names: list[str] | None
    """What the numbers 0, 1, ... stand for; None where the numbers are all there is."""
    text: bool
    """Whether the labels themselves are names."""
    where: str

    def __len__(self) -> int:
        return len(self.numbers)


def numbered(numbers: np.ndarray, where: str, names: Sequence[str] | None = None, remedy: str = LEAVE_OUT) -> Labels:
    """Labels of whole numbers; names: what they stand for. Raises DataError for a negative one."""
    if len(bad := np.flatnonzero(numbers < 0)):
        count = f"{len(bad):,} rows with such a label" if len(bad) > 1 else "one such row"
        raise DataError(
            "a label is out of range",
            where=f"{where}, row {bad[0]}",
            expected="0 or more",
            got=f"{numbers[bad[0]]}, {count}",
            remedy=remedy,
        )
    return Labels(numbers.astype(np.int64, copy=False), list(names) if names else None, False, where)


def texts(values: np.ndarray, where: str) -> Labels:
    """Labels that are names. Raises DataError for an empty one."""
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    if names[0] == "":
        raise missing_label_error(f"{where}, row {np.flatnonzero(numbers.ravel() == 0)[0]}", "an empty text")
    return Labels(numbers.ravel().astype(np.int64), names.tolist(), True, where)


def missing_label_error(where: str, got: object) -> DataError:
    """The error for a sample without a label."""
    return DataError("a label is missing", where=where, expected="a class", got=got, remedy="leave such rows out")


def labels_of(
    values: Any, where: str, rows: int, names: Sequence[str] | None = None, remedy: str = LEAVE_OUT
) -> Labels:
    """Labels of `rows` samples, from a tensor, array or list [N] or [N, 1] of whole numbers, truths or names.

    Floats that are whole numbers are taken as such. Raises DataError for anything else.
    """
    if isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values):
        values = np.array(values, object)  # NumPy would make texts of the numbers among them
    y = as_array(values, "labels", where)
    if y.ndim > 1 and y.size == len(y):
        y = y.reshape(len(y))
    if y.ndim == 2:
        raise several_labels_error(y, where)
    if y.shape != (rows,):
        raise DataError(
            "labels are one whole number a sample",
            where=where,
            expected=f"integers [{rows}]",
            got=f"{y.dtype} {list(y.shape)}",
        )
    match y.dtype.kind:
        case "b" | "i" | "u":
            return numbered(whole(y, where), where, names, remedy)
        case "f":
            return numbered(whole(y, where), where, names, remedy)
        case "U" | "T":
            return texts(y, where)
        case "S":
            return texts(np.char.decode(y, "utf-8", "replace"), where)
        case "O":
            return labels_of(to_numpy_type(y, where), where, rows, names, remedy)
    raise DataError(
        "labels are whole numbers or names",
        where=where,
        expected="integers, or texts",
        got=f"{y.dtype} {list(y.shape)}",
        remedy="y.astype(str) takes each different value as a class",
    )


def whole(y: np.ndarray, where: str) -> np.ndarray:
    """int64 [N] of truths, whole numbers, or floats that are such."""
    if y.dtype.kind == "f":
        y = y.astype(np.float64)  # 2**63 is beyond a float16
        if len(bad := np.flatnonzero(np.isnan(y))):
            raise missing_label_error(f"{where}, row {bad[0]}", "NaN")
        if len(bad := np.flatnonzero(y != np.floor(y))):
            raise DataError(
                "labels are one whole number a sample",
                where=f"{where}, row {bad[0]}",
                expected="whole numbers, or names",
                got=y[bad[0]],
                remedy=FRACTIONS,
            )
    if y.dtype.kind in "fu" and len(bad := np.flatnonzero(y >= 2**63)):
        raise DataError(
            "a label is out of range",
            where=f"{where}, row {bad[0]}",
            expected="less than 2**63",
            got=y[bad[0]],
            remedy="_, y = numpy.unique(y, return_inverse=True)",
        )
    return y.astype(np.int64)


def several_labels_error(y: np.ndarray, where: str) -> DataError:
    """The error for labels [N, K], several a sample."""
    numbers = y.dtype.kind in "biuf"
    if numbers and y.size and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        got, remedy = f"one-hot labels, {y.dtype} {list(y.shape)}", "numpy.argmax(y, 1)"
    elif numbers and y.size and np.allclose(y.sum(1), 1):
        got, remedy = f"shares of classes, {y.dtype} {list(y.shape)}", "numpy.argmax(y, 1), the likeliest class of each"
    else:
        got = f"{y.dtype} {list(y.shape)}"
        remedy = "one class a sample is learned, not several; choose one column: y[:, 0]"
    return DataError(
        "labels are one whole number a sample", where=where, expected=f"integers [{len(y)}]", got=got, remedy=remedy
    )


def to_numpy_type(y: np.ndarray, where: str) -> np.ndarray:
    """An array of Python's own values as one of NumPy's types. Raises DataError for unlike or missing ones."""
    values = [value.item() if isinstance(value, np.generic) else value for value in y.tolist()]
    values = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
    for row, value in enumerate(values):
        if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
            raise missing_label_error(f"{where}, row {row}", value)
    kinds = {
        "a text"
        if isinstance(value, str)
        else "a number"
        if isinstance(value, (int, float))
        else type(value).__name__: row
        for row, value in reversed([*enumerate(values)])
    }
    if len(kinds) > 1 or not kinds.keys() <= {"a text", "a number"}:
        raise DataError(
            "labels are of unlike kinds" if len(kinds) > 1 else "labels are whole numbers or names",
            where=where,
            expected="whole numbers, or texts",
            got=", ".join(f"{kind} in row {row}" for kind, row in sorted(kinds.items(), key=lambda k: k[1])),
            remedy="[str(label) for label in y] takes all as names",
        )
    made = np.array(values)
    return made if made.dtype.kind != "O" else np.array(values, np.float64)


def unlike_kinds_error(labels: Labels, train: Labels) -> DataError:
    """The error for names in one split and numbers in another."""
    kinds = ["names" if each.text else "numbers" for each in (train, labels)]
    return DataError(
        "labels are of unlike kinds",
        where=labels.where,
        expected=f"{kinds[0]}, as in {train.where}",
        got=kinds[1],
        remedy="write both as names, or both as numbers",
    )
