"""Parquet, Arrow and Feather files with a column of pictures and a column of labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffdist.data.columns import label_codes, label_values, labels_of, names_in, samples
from ffdist.data.sources.base import Item, Shares, Source
from ffdist.errors import DataError

SUFFIXES = (".parquet", ".arrow", ".feather")
ROWS = 64
"""Read at once; what bounds the memory."""


class Table(Source):
    """One such file, or a folder of them: train* and test* (or val*) are the splits, otherwise all are one.

    Labels are strings or whole numbers; those that occur become 0..K-1 in sorted order, unless metadata name K classes.
    Raises DataError for a file that cannot be read, a column that is not there, and what `columns` refuses.
    """

    def __init__(self, path: Path, *, image: str, label: str, test_fraction: float, seed: int) -> None:
        self.name, self.image, self.files = path.stem, image, splits(path)
        columns = {file: labels_of(read(file, label), file) for files in self.files.values() for file in files}
        names = names_in(schema(self.files["train"][0]), label)
        values = label_values([columns[file] for file in self.files["train"]], names)
        self.classes = names or [str(value) for value in values]
        codes = {file: label_codes(column, values, file) for file, column in columns.items()}
        self.labels = {split: np.concatenate([codes[file] for file in of]) for split, of in self.files.items()}
        self.counts = {split: len(labels) for split, labels in self.labels.items()}
        self.shares = Shares(self.labels["train"], 0 if "test" in self.counts else test_fraction, seed)
        if "test" not in self.counts:
            self.counts = self.shares.counts

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


def splits(path: Path) -> dict[str, list[Path]]:
    """The files of each split, sorted by name."""
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in SUFFIXES)
    train = [file for file in files if file.name.startswith("train")]
    test = [file for file in files if file.name.startswith(("test", "val"))]
    return {"train": train, "test": test} if train and test else {"train": files}


def schema(path: Path) -> pa.Schema:
    """Of a file. Raises DataError where it is not an Arrow, Feather or Parquet file."""
    if path.suffix not in SUFFIXES:
        raise DataError("a table cannot be read", where=path, expected=" or ".join(SUFFIXES),
                        got=path.suffix or "a name without an ending",
                        remedy="save it as Parquet, e.g. pandas.read_csv(...).to_parquet(...); "
                               "arrays go by ffdist.from_tensors")  # fmt: skip
    try:
        if path.suffix == ".parquet":
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
    if path.suffix == ".parquet":
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
