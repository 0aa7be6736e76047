"""Columns of Arrow tables as pictures, arrays and labels."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffdist.data.arrays import as_bytes
from ffdist.data.classes import own_names
from ffdist.data.depth import Range
from ffdist.data.labels import (
    LEAVE_OUT_OF_FILE,
    Labels,
    missing_label_error,
    numbered,
    texts,
    unlike_kinds_error,
    whole,
)
from ffdist.errors import DataError, setting
from ffdist.notes import note

BEYOND = (
    f"name black and white: {setting('value_range', '{black:g} {white:g}')}; or as floats by "
    "ffdist.from_arrow(..., normalize=True)"
)

Cells = Sequence[bytes | Path] | Sequence[np.ndarray] | np.ndarray
"""The samples of an image column: encoded pictures, files, or arrays [N, ...] (a list where shapes differ)."""


def column_samples(
    column: pa.Array,
    where: object,
    first: int = 0,
    folder: Path | None = None,
    *,
    lenient: bool = False,
    value_range: Range | None = None,
) -> Cells:
    """The samples of an image column.

    column: binary; a struct with a field `bytes` (as Hugging Face keeps pictures), or `path` where that is null; paths,
    relative to `folder`; lists of numbers, nested as [H][W] or [H][W][C]; or fixed-shape tensors. Whole numbers in
    0..255 become uint8. first: row in `where` of the first. lenient: a picture that is missing is no bytes, or the path
    where no file is, so that whoever decodes them can name them all; but where the first files are all missing, the
    paths are of another kind. value_range: as in `as_bytes`.
    Raises DataError for a missing sample or another type.
    """
    column = plain_column(column)
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        return pictures_or_files(column.to_pylist(), where, first, folder, lenient)
    if is_binary(column.type) or is_text(column.type):
        key = "bytes" if is_binary(column.type) else "path"
        return pictures_or_files([{key: cell} for cell in column.to_pylist()], where, first, folder, lenient)
    if column.null_count:
        raise DataError(
            "a sample is missing",
            where=f"{where}, row {first + first_null(column)}",
            got="null",
            remedy="leave such rows out",
        )
    if isinstance(column.type, pa.FixedShapeTensorType):
        refuse_nulls(column.storage.flatten(), len(column), where, first)
        array = column.to_numpy_ndarray()  # pyright: ignore
        return as_bytes(array, f"{where}, row {first} and after", BEYOND, value_range)
    if is_list(column.type):
        return nested(column, where, first, value_range)
    raise DataError(
        "an image column holds encoded pictures or arrays",
        where=where,
        got=str(column.type),
        expected="binary, struct with bytes, paths, nested lists, or fixed_shape_tensor",
        remedy="name another column of pictures; where no column can be one, all columns of numbers are the samples",
    )


def pictures_or_files(
    cells: list[dict | None], where: object, first: int, folder: Path | None, lenient: bool
) -> list[bytes | Path]:
    """Pictures of structs with `bytes`, or with `path` where those are null."""
    found: list[bytes | Path] = []
    for row, cell in enumerate(cells):
        data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
        if data is None and path is None and not lenient:
            raise DataError(
                "a sample is missing", where=f"{where}, row {first + row}", got="null", remedy="leave such rows out"
            )
        if data is None and path and "\0" in str(path):
            raise DataError(
                "a path has a zero byte in it",
                where=f"{where}, row {first + row}",
                expected="the path of a file",
                got=repr(path)[:200],
                remedy="write the row anew, or leave it out",
            )
        found.append(data if data is not None else file_named(str(path), folder) if path else b"")
    files = [(row, cell) for row, cell in enumerate(found) if isinstance(cell, Path)]
    lost = [(row, file) for row, file in files if not is_file(file)]
    if lost and (not lenient or (first == 0 and len(lost) == len(files))):
        raise no_file_error(lost[0][1], f"{where}, row {first + lost[0][0]}", folder)
    return found


def file_named(path: str, folder: Path | None) -> Path:
    """The file that a cell names, below `folder`; with slashes for Windows' backslashes where only that exists."""
    file = (folder or Path()) / path
    turned = (folder or Path()) / path.replace("\\", "/")
    return turned if turned != file and is_file(turned) and not is_file(file) else file


def is_file(file: Path) -> bool:
    """True if the path is a file; False also for a text that no file system takes for a name."""
    try:
        return file.is_file()
    except (OSError, ValueError):  # a text that can be no name, as it is too long
        return False


def no_file_error(file: Path, where: str, folder: Path | None) -> DataError:
    """The error for a picture file that is not there, with the place of one of its name nearby."""
    root = (folder or Path()).absolute()
    found = file_nearby(file.name, root)
    return DataError(
        "a picture's file is not there",
        where=where,
        expected=f"the path of a file, from the folder {root}, or absolute",
        got=str(file.absolute())[:200],
        remedy=f"write the paths as {found}" if found else "write the paths so, or name another column of pictures",
    )


def file_nearby(name: str, root: Path) -> str | None:
    """The path of a file called so, perhaps with an ending, in `root` or a folder in it; None where there is none."""
    places = [root, *(path for path in sorted(root.iterdir()) if path.is_dir())] if root.is_dir() else []
    pattern = glob.escape(name)
    found = (path for place in places for ending in ("", ".*") for path in sorted(place.glob(pattern + ending)))
    return next((path.relative_to(root).as_posix() for path in found if path.is_file()), None)


def nested(
    column: pa.Array, where: object, first: int, value_range: Range | None = None
) -> np.ndarray | list[np.ndarray]:
    """Lists of lists as an array [N, ...]; as one array a row where the rows differ in shape."""
    shape, values = [len(column)], column
    while is_list(values.type):
        lengths = values.value_lengths().unique().to_pylist()  # pyright: ignore
        if len(lengths) != 1 or values.null_count:
            if len(column) == 1:
                raise DataError(
                    "a sample's lists differ in length",
                    where=f"{where}, row {first}",
                    expected="one length",
                    got=lengths,
                )
            rows = range(len(column))
            return [nested(column.slice(row, 1), where, first + row, value_range)[0] for row in rows]
        shape.append(lengths[0])
        values = plain_column(values.flatten())
    refuse_nulls(values, len(column), where, first)
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise DataError(
            "an image column holds encoded pictures or arrays",
            where=where,
            got=f"lists of {values.type}",
            expected="lists of numbers",
        )
    array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return as_bytes(array, f"{where}, row {first} and after", BEYOND, value_range)


def refuse_nulls(values: pa.Array, rows: int, where: object, first: int) -> None:
    """Raises DataError for a null among the numbers of `rows` samples."""
    if values.null_count:
        row = first_null(values) * rows // len(values)
        raise DataError(
            "a sample holds a null",
            where=f"{where}, row {first + row}",
            expected="numbers",
            got="null",
            remedy="fill it, or leave the row out",
        )


def plain_column(column: pa.Array) -> pa.Array:
    """A column without extension types, dictionaries, runs and views, of a type that any version of Arrow can compute
    with."""
    while True:
        kind = column.type
        if isinstance(column, pa.ExtensionArray) and not isinstance(kind, pa.FixedShapeTensorType):
            column = column.storage
        elif isinstance(column, pa.DictionaryArray):
            values = plain_column(column.dictionary)  # of views, Arrow takes none by their places
            column = pa.DictionaryArray.from_arrays(column.indices, values).dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            column = pc.run_end_decode(column)  # pyright: ignore
        elif pa.types.is_string_view(kind):
            column = column.cast(pa.large_string())
        elif pa.types.is_binary_view(kind):
            column = column.cast(pa.large_binary())
        elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            column = without_views(column)
        else:
            return column


def without_views(column: Any) -> pa.LargeListArray:
    """List views as lists: Arrow's own cast makes an array with an offset too few."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), column.flatten(), mask=column.is_null())


def is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def first_null(column: pa.Array | pa.ChunkedArray) -> int:
    """The row of a column's first null."""
    return column.is_null().index(True).as_py()


class LabelRemedies(NamedTuple):
    """The remedies for labels that cannot be taken, in the words of what holds them."""

    below_0: str
    other: str
    """For neither numbers nor texts."""


IN_FILE = LabelRemedies(LEAVE_OUT_OF_FILE, "write its values as texts: each different one is a class then")


def column_labels(
    chunks: Iterable[pa.Array], where: str, names: Sequence[str] | None = None, remedies: LabelRemedies = IN_FILE
) -> Labels:
    """The labels of a column; names: what whole numbers stand for.

    Raises DataError for a missing label, and for neither whole numbers nor truths nor texts.
    """
    parts: list[Labels] = []
    for chunk in chunks:
        if len(chunk):
            parts.append(chunk_labels(plain_column(chunk), where, sum(map(len, parts)), names, remedies))
    if not parts:
        raise DataError("a table has no rows", where=where, expected="one row or more", got="none")
    return joined(parts, where)


def chunk_labels(
    column: pa.Array, where: str, first: int, names: Sequence[str] | None, remedies: LabelRemedies
) -> Labels:
    """The labels of one chunk of a column. first: the row in `where` of the chunk's first one, for errors."""
    kind = column.type
    if column.null_count:
        raise missing_label_error(f"{where}, row {first + first_null(column)}", "null")
    try:
        if is_text(kind) or is_binary(kind):
            coded = column.cast(pa.large_binary()).cast(pa.large_string()).dictionary_encode()
            return texts(np.array(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()], where)
        if pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        if pa.types.is_integer(kind) or pa.types.is_floating(column.type) or pa.types.is_boolean(kind):
            numbers = whole(column.to_numpy(zero_copy_only=False), where)
            return numbered(numbers, where, names, remedies.below_0)
    except pa.ArrowInvalid as error:
        raise DataError(
            "a label cannot be read", where=where, expected="a text in UTF-8", got=error, remedy=remedies.other
        ) from error
    several = "one label a sample is learned, not several; or list_element(column, 0)" if is_list(kind) else None
    raise DataError(
        "a label column holds whole numbers or strings",
        where=where,
        got=str(kind),
        remedy=several or remedies.other,
    )


def joined(parts: Sequence[Labels], where: str) -> Labels:
    """The labels of several chunks or files as one's. Raises DataError where some are names and others numbers."""
    first = parts[0]
    for part in parts:
        if part.text != first.text:
            raise unlike_kinds_error(part, first)
    if all(part.names == first.names for part in parts):
        return Labels(np.concatenate([part.numbers for part in parts]), first.names, first.text, where)
    names = sorted({name for part in parts for name in part.names or ()}) if first.text else list(first.names or ())
    place = {name: k for k, name in enumerate(names)}
    numbers = []
    for part in parts:
        if unknown := {*(part.names or names)} - {*names}:
            raise DataError(
                "class names differ",
                where=part.where,
                expected=", ".join(names),
                got=", ".join(sorted(unknown)),
                remedy="write the same names in all files",
            )
        if part.names and len(part.names) <= part.numbers.max():
            raise DataError(
                "a label is out of range",
                where=part.where,
                expected=f"0..{len(part.names) - 1}",
                got=int(part.numbers.max()),
                remedy="name every class",
            )
        own = [place[name] for name in part.names or names]
        numbers.append(np.array(own, np.int64)[part.numbers] if part.names else part.numbers)
    return Labels(np.concatenate(numbers), names, first.text, where)


def names_in(schema: pa.Schema, label: str) -> list[str] | None:
    """The class names that Hugging Face's metadata give a label column, where there are any."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except ValueError as error:
        note(f"column '{label}': Hugging Face's metadata cannot be read ({error}); classes are named by their labels")
        return None
    for key in ("info", "features", label, "names"):
        parsed = parsed.get(key) if isinstance(parsed, dict) else None
    return own_names(parsed, f"column '{label}'") if isinstance(parsed, list) else None
