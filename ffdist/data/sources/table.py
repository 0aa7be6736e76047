"""Parquet, Arrow and Feather files with a column of pictures and a column of labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffdist.data.columns import label_codes, label_values, labels_of, names_in, samples
from ffdist.data.sources.base import Item, Shares, Source
from ffdist.data.sources.splits import TEST, TRAIN, Choice
from ffdist.data.sources.table_splits import SUFFIXES, find_files
from ffdist.errors import DataError

ROWS = 64
"""Read at once; what bounds the memory."""


class Table(Source):
    """One such file, or a folder of them, whose names may say which split they are (`table_splits.find_files`).

    Labels are strings or whole numbers; those that occur become 0..K-1 in sorted order, unless metadata name K classes.
    Raises DataError for a file that cannot be read, a column that is not there, and what `columns` refuses.
    """

    def __init__(
        self, path: Path, *, image: str, label: str, choice: Choice, test_fraction: float | None, seed: int
    ) -> None:
        found = find_files(path, choice)
        self.name, self.image, self.files = path.resolve().stem, image, found.splits
        first = TRAIN if TRAIN in self.files else TEST
        columns = {file: labels_of(read(file, label), file) for files in self.files.values() for file in files}
        names = names_in(schema(self.files[first][0]), label)
        values = label_values([columns[file] for file in self.files[first]], names)
        self.classes = names or [str(value) for value in values]
        codes = {file: label_codes(column, values, file) for file, column in columns.items()}
        self.labels = {split: np.concatenate([codes[file] for file in of]) for split, of in self.files.items()}
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        self.shares = Shares.of(self.counts, self.labels[first], test_fraction, seed)
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.left_out = found.listing.left_out
        self.notes = [*found.notes, *self.shares.notes]

    def items(self) -> Iterator[Item]:
        for split, files in self.files.items():
            labels = enumerate(self.labels[split].tolist())
            for file in files:
                first = 0
                for column in read(file, self.image):
                    for place, data in enumerate(samples(column, file, first)):
                        row, label = next(labels)
                        share = self.shares.split(row) if split == "train" else split
                        yield Item(share, label, data, f"{file}, row {first + place}")
                    first += len(column)


def schema(path: Path) -> pa.Schema:
    """Of a file. Raises DataError where it is not an Arrow, Feather or Parquet file."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError("a table cannot be read", where=path, expected=" or ".join(SUFFIXES),
                        got=path.suffix or "a name without an ending",
                        remedy="save it as Parquet, e.g. pandas.read_csv(...).to_parquet(...); "
                               "arrays go by ffdist.from_tensors")  # fmt: skip
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_schema(path)
        with pa.memory_map(str(path)) as source:
            return ipc(source).schema
    except (pa.ArrowException, OSError) as error:
        raise DataError("a table cannot be read", where=path, expected=" or ".join(SUFFIXES),
                        got=error) from error  # fmt: skip


def read(path: Path, column: str) -> Iterator[pa.Array]:
    """A column, a few rows at a time. Raises DataError where there is no such column or the file is damaged."""
    names = schema(path).names
    if column not in names:
        raise DataError("a table lacks a column", where=path, expected=column, got=", ".join(names),
                        remedy="name it with --image-column or --label-column")  # fmt: skip
    try:
        for batch in batches(path, column):
            for first in range(0, len(batch), ROWS):
                yield batch.column(column).slice(first, ROWS)
    except (pa.ArrowException, OSError) as error:
        raise DataError("a table cannot be read", where=path, expected=" or ".join(SUFFIXES),
                        got=error) from error  # fmt: skip


def batches(path: Path, column: str) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:  # never a whole row group
            yield from file.iter_batches(ROWS, columns=[column], use_threads=False)
    else:
        with pa.memory_map(str(path)) as source:
            reader = ipc(source)
            stream = isinstance(reader, pa.RecordBatchStreamReader)
            yield from reader if stream else map(reader.get_batch, range(reader.num_record_batches))


def ipc(source: pa.MemoryMappedFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Arrow's file format begins with its name; the stream format, which Hugging Face writes, does not."""
    file = source.read(6) == b"ARROW1"
    source.seek(0)
    return pa.ipc.open_file(source) if file else pa.ipc.open_stream(source)
