"""Parquet, Arrow, Feather and CSV files, read a column and a few rows at a time."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from ffdist.data.column_names import LABEL
from ffdist.data.columns import column_labels, names_in
from ffdist.data.labels import LEAVE_OUT_OF_FILE, Labels, numbered, whole
from ffdist.data.sources.table_splits import SUFFIXES
from ffdist.errors import DataError, setting
from ffdist.folders import command
from ffdist.notes import listed

LINES = (".jsonl", ".ndjson")
"""Files with a JSON object a line."""
TEXTS = (".csv", ".tsv", *LINES)
"""Files of text: the image column holds paths, from the file's folder."""
KNOWN = " or ".join((*SUFFIXES, *TEXTS))
FIRST_FEATHER = "Feather of version 1"
LABELS = ("label", "labels", "class", "classes", "target", "y")
"""What the column of labels is usually called, in small letters."""
MANY = 8
"""Columns of a table that holds a sample's numbers, and not the path of its picture."""
ROWS = 64
"""Rows that are read at once, which bounds the memory."""


def schema(path: Path) -> pa.Schema:
    """The Arrow schema of a file. Raises DataError where it is none of these kinds, or is damaged."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES + TEXTS:
        raise DataError(
            "a table cannot be read",
            where=path,
            expected=KNOWN,
            got=path.suffix or "a name without an ending",
            remedy="save it as one of these, e.g. by pandas' to_parquet or to_csv; arrays go by ffdist.from_tensors",
        )
    with readable(path):
        found = schema_in(path, suffix)
        assert found.names is not None  # which raises where one is no text
        return found


def schema_in(path: Path, suffix: str) -> pa.Schema:
    """The schema of a file by the reader for its ending. Raises Arrow's own errors."""
    if suffix in LINES:
        return pyarrow.json.read_json(path).schema
    if suffix in TEXTS:
        return pa.schema([(name, pa.string()) for name in header(path)])
    if suffix == ".parquet":
        return pq.read_schema(path)
    with pa.OSFile(str(path)) as source:
        return ipc(source).schema


def labels_in(path: Path, column: str) -> Labels:
    """The labels of a file."""
    found = column_labels(read(path, column), str(path), names_in(schema(path), column))
    return found if path.suffix.lower() not in TEXTS else numerals(found)


def numerals(labels: Labels) -> Labels:
    """Texts as whole numbers, where all of them are such, written in one way. Raises DataError for fractions, for a
    number below 0 beside others than 1, and where numbers and texts are mixed."""
    names = labels.names or []
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if not labels.text or not numbers or {*names} == {"-1", "1"}:
        return labels
    if len(numbers) < len(names):
        check_one_kind(labels, numbers)
        return labels
    if any(re.search(r"[.eE]", name) for name in names):
        values = whole(np.array(names, np.float64)[labels.numbers], labels.where)
        return numbered(values, labels.where, remedy=LEAVE_OUT_OF_FILE)
    if not all(is_numeral(name.removeprefix("-")) for name in names):
        return labels
    values = pc.cast(pa.array(names), pa.int64()).to_numpy()
    return numbered(values[labels.numbers], labels.where, remedy=LEAVE_OUT_OF_FILE)


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def check_one_kind(labels: Labels, numbers: list[str]) -> None:
    """Raises DataError for numbers beside longer texts, as where a column changes in the middle. Digits beside letters,
    "0" to "9" and "A" to "Z", are names."""
    names = labels.names or []
    others = [name for name in names if name not in numbers]
    if max(map(len, others)) <= max(map(len, numbers)):
        return
    of_number = np.isin(labels.numbers, [names.index(name) for name in numbers])
    rows = np.flatnonzero(of_number != of_number[0])
    first, other = (names[labels.numbers[row]] for row in (0, rows[0]))
    raise DataError(
        "labels are of unlike kinds",
        where=f"{labels.where}, row {rows[0]}",
        expected=f"a {'number' if of_number[0] else 'name'}, as {first} in row 0",
        got=other,
        remedy="write all as numbers, or all as names, e.g. class-0 for 0; or leave such rows out",
    )


def is_numeral(text: str) -> bool:
    """True if it is a whole number, written as Python writes it."""
    return text.isascii() and text.isdigit() and str(int(text)) == text and len(text) < 19


def read(path: Path, column: str) -> Iterator[pa.Array]:
    """A column, a few rows at a time. Raises DataError where there is no such column or the file is damaged."""
    names = schema(path).names
    if column not in names:
        raise DataError(
            "a table lacks a column",
            where=path,
            expected=column,
            got=listed(names, 12),
            remedy=number_table_remedy(path)
            or f"name it with {setting('image_column')} or {setting('label_column')}; a table of plain numbers needs "
            f"no preparing: {command('train', '--data', path, '--model', 'mlp')}",
        )
    if names.count(column) > 1:
        raise DataError(
            "a table has a column twice",
            where=path,
            expected=f"one '{column}'",
            got=listed(names, 12),
            remedy="rename one of them",
        )
    rows = 0
    with readable(path, lambda: rows):
        for batch in batches(path, column):
            for first in range(0, len(batch), ROWS):
                yield batch.column(column).slice(first, ROWS)
            rows += len(batch)


@contextmanager
def readable(path: Path, rows: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Raises DataError where Arrow cannot read a file inside. rows: how many have been read."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if is_pointer(path):
            raise DataError(
                "this is a pointer of Git LFS, and not the file",
                where=path,
                got="the text that stands for it",
                remedy="git lfs pull, in that repository",
            ) from error
        raise unreadable_error(path, rows(), error) from error


PLACE = re.compile(r"CSV parse error: Row #(\d+):")


def unreadable_error(path: Path, rows: int, error: Exception) -> DataError:
    """The error for a file that Arrow cannot read on. rows: how many were read before."""
    message, suffix = str(error), path.suffix.lower()
    where = f"{path}, row {rows} or after it" if rows else str(path)
    if place := PLACE.search(message):
        where = f"{path}, line {place[1]}"
    elif suffix in LINES and (row := unlike_row(path)) is not None:
        where = f"{path}, row {row}"
        error = ValueError(re.sub(r" in row \d+$", "", message))  # it counts from the beginning of a part of the file
    if message.startswith(FIRST_FEATHER):
        expected, remedy = KNOWN, f"pandas.read_feather({str(path)!r}).to_feather('NEW.feather')"
    elif "changed from" in message:
        expected, remedy = "one type in a column", "write the column as one type in all rows"
    elif suffix in TEXTS:
        expected = "as many values in a line as its header has names" if suffix not in LINES else "an object a line"
        remedy = "mend that line; or save the file anew, text in UTF-8"
    else:
        expected = f"a whole {'Parquet' if suffix == '.parquet' else 'Arrow'} file"
        remedy = "it is damaged or cut off: fetch or write it again"
    return DataError("a table cannot be read", where=where, expected=expected, got=error, remedy=remedy)


def unlike_row(path: Path) -> int | None:
    """The first line that is no JSON object, or has a value of another type than the lines before it."""
    kinds: dict[str, type] = {}
    with path.open("rb") as file:
        for row, line in enumerate(line for line in file if line.strip()):
            try:
                for name, value in json.loads(line).items():
                    kind = float if isinstance(value, int) and not isinstance(value, bool) else type(value)
                    if value is not None and kinds.setdefault(name, kind) is not kind:
                        return row
            except (ValueError, AttributeError):
                return row
    return None


def is_pointer(path: Path) -> bool:
    """True if a repository was cloned without its large files."""
    try:
        with path.open("rb") as file:
            return file.read(40).startswith(b"version https://git-lfs")
    except OSError:
        return False


def batches(path: Path, column: str) -> Iterator[pa.RecordBatch]:
    """A column's record batches, whatever the file's kind. Raises Arrow's own errors."""
    suffix = path.suffix.lower()
    if suffix in LINES:
        yield from pyarrow.json.read_json(path).select([column]).to_batches()
    elif suffix in TEXTS:
        yield from text_batches(path, column)
    elif suffix == ".parquet":
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:  # never a whole row group
            yield from file.iter_batches(ROWS, columns=[column], use_threads=False)
    else:
        with arrow_file(path) as source:
            reader = ipc(source)
            stream = isinstance(reader, pa.RecordBatchStreamReader)
            for batch in reader if stream else map(reader.get_batch, range(reader.num_record_batches)):
                batch.select([column]).validate(full=True)  # places beyond the file would end this process
                yield batch


def arrow_file(path: Path) -> pa.NativeFile:
    """Read rather than mapped, as a map of a file that is cut off meanwhile ends this process; batches that are too
    large to be held are mapped all the same."""
    with pa.OSFile(str(path)) as source:
        reader = ipc(source)
        batches = reader.num_record_batches if isinstance(reader, pa.RecordBatchFileReader) else None
        mapped = batches is not None and source.size() > BATCH_BYTES * batches
    return pa.memory_map(str(path)) if mapped else pa.OSFile(str(path))


BATCH_BYTES = 2**30


def ipc(source: pa.NativeFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Arrow's file format begins with its name; the stream format, which Hugging Face writes, does not."""
    start = source.read(6)
    source.seek(0)
    if start[:4] == b"FEA1":
        raise pa.ArrowInvalid(f"{FIRST_FEATHER}, of which version 2 is Arrow's own")
    return pa.ipc.open_file(source) if start == b"ARROW1" else pa.ipc.open_stream(source)


def header(path: Path) -> list[str]:
    """The names of a text file's columns, without blanks around them."""
    with path.open(encoding="utf-8-sig") as file:
        line = file.readline().rstrip("\r\n")
    return [name.strip() for name in next(csv.reader([line], delimiter=separator(line), skipinitialspace=True), [])]


def number_table_remedy(path: Path) -> str | None:
    """A remedy for a text file that holds a picture's numbers in columns, and no paths; None for others."""
    if path.suffix.lower() not in TEXTS or path.suffix.lower() in LINES:
        return None
    names = header(path)
    with path.open(encoding="utf-8-sig") as file:
        line = file.readline()
        cells = next(csv.reader([file.readline()], delimiter=separator(line)), [])
    if len(cells) < MANY or not all(cell.strip().lstrip("-").replace(".", "", 1).isdigit() for cell in cells[1:-1]):
        return None
    label = next((name for name in names if name.casefold() in LABELS), names[-1 if is_label(cells) else 0])
    option = "" if label == LABEL else f" --data-args {shlex.quote(f'label_column={label}')}"
    return f"plain numbers are read as they are: {command('train', '--data', path, '--model', 'mlp')}{option}"


def is_label(cells: Sequence[str]) -> bool:
    """True if the last cell of a row is a label rather than the first: a name, or a whole number after a fraction."""
    first, last = cells[0].strip(), cells[-1].strip()
    return not last.replace(".", "", 1).isdigit() or ("." in first and last.isdigit())


def separator(line: str) -> str:
    """The character that separates a header's columns: whichever of comma, semicolon and tab is most frequent."""
    return max(",;\t", key=line.count)


def text_batches(path: Path, column: str) -> Iterator[pa.RecordBatch]:
    """A text file's column as texts without blanks around them; an empty cell is an empty text, not null."""
    names = header(path)
    with path.open(encoding="utf-8-sig") as file:
        parse = pyarrow.csv.ParseOptions(delimiter=separator(file.readline()), newlines_in_values=True)
    reader = pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=parse,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={column: pa.string()}, include_columns=[column], strings_can_be_null=False
        ),
    )
    for batch in reader:
        trimmed = pc.call_function("utf8_trim_whitespace", [batch.column(column)])
        yield pa.record_batch([trimmed], names=[column])
