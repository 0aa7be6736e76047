"""The files of shards with pixels: an Arrow IPC file with one record batch each.

Columns: `image`, fixed-size binary of H * W * C bytes in that order; and `label`, int32. Shards of an older version may
have a third, `coarse`, int32, which nothing reads.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist import digests
from ffdist.data.arrow_file import write_arrow_file
from ffdist.data.manifest import AGAIN, ShardFile, SplitFiles
from ffdist.data.row_digests import digests_of, write_digests
from ffdist.errors import DataError
from ffdist.regular import open_regular

SHARD_BYTES = 64 * 2**20
HEAD = 2**12
"""Bytes at the beginning of a shard in which its pixels begin."""
MAGIC = 8
PADDED = (8, 64)
"""Bytes to a multiple of which Arrow fills up each column's: it has had both."""


def shard_schema(shape: tuple[int, int, int], coarse: bool = False) -> pa.Schema:
    """shape: (C, H, W). coarse: whether the older version's third column is there."""
    c, h, w = shape
    columns = [("image", pa.binary(h * w * c)), ("label", pa.int32()), *([("coarse", pa.int32())] if coarse else [])]
    return pa.schema(columns, metadata={"shape_hwc": f"{h},{w},{c}", "dtype": "uint8"})


class ShardWriter:
    """Writes the shards of one split, with one shard in memory."""

    def __init__(
        self,
        folder: Path,
        split: str,
        shape: tuple[int, int, int],
        num_classes: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder = folder
        self.split = split
        self.schema = shard_schema(shape)
        c, h, w = shape
        self.images = np.empty((max(1, shard_bytes // (h * w * c)), h * w * c), np.uint8)
        self.labels = np.empty(len(self.images), np.int32)
        self.rows = 0
        self.counts = np.zeros(num_classes, np.int64)
        self.files: list[ShardFile] = []
        self.labels_and_digests: list[tuple[np.ndarray, np.ndarray]] = []
        """Labels and digests of all that came, eight bytes each."""

    def add(self, pictures: np.ndarray, labels: np.ndarray) -> None:
        """pictures: uint8 [N, H, W, C]; labels: int [N]."""
        flat = np.ascontiguousarray(pictures).reshape(len(pictures), self.images.shape[1])
        self.labels_and_digests.append((labels.astype(np.int32), digests_of(flat)))
        while len(flat):
            room = slice(self.rows, self.rows + len(flat))
            taken = len(self.labels[room])
            self.images[room], self.labels[room] = flat[:taken], labels[:taken]
            self.rows += taken
            flat, labels = flat[taken:], labels[taken:]
            if self.rows == len(self.labels):
                self.flush()

    def flush(self) -> None:
        """Write the samples that were added since the last shard as a new one."""
        path = self.folder / f"{self.split}-{len(self.files):05d}.arrow"
        labels = self.labels[: self.rows]
        pixels = pa.py_buffer(self.images[: self.rows])
        columns = [pa.Array.from_buffers(self.schema.field("image").type, self.rows, [None, pixels]), pa.array(labels)]
        self.files.append(write_arrow_file(path, pa.record_batch(columns, schema=self.schema)))
        self.counts += np.bincount(labels, minlength=len(self.counts))
        self.rows = 0

    def finish(self) -> SplitFiles:
        """Write the last shard and the digests; returns the files of the split."""
        if self.rows:
            self.flush()
        labels, found = (np.concatenate(each) for each in zip(*self.labels_and_digests, strict=True))
        return SplitFiles(self.files, self.counts.tolist(), None, write_digests(self.folder, self.split, labels, found))


def columns_in(source: pa.NativeFile, schema: pa.Schema, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [rows, H * W * C] and labels int32 [rows] of the only record batch, without a copy."""
    reader = pa.ipc.open_file(source)
    if not reader.schema.equals(schema, check_metadata=True) or reader.num_record_batches != 1:
        columns = ", ".join(f"{field.name} {field.type}" for field in reader.schema)
        raise ValueError(f"{reader.num_record_batches} record batches of {columns}")
    batch = reader.get_batch(0)
    batch.validate()
    if len(batch) != rows:
        raise ValueError(f"{len(batch)} rows")
    width = schema.field("image").type.byte_width
    pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8, rows * width)
    return pixels.reshape(rows, width), batch.column("label").to_numpy()


def labels_in(source: pa.NativeFile, schema: pa.Schema, rows: int) -> np.ndarray:
    """int32 [rows] of the only record batch, of which nothing else is read. Raises ValueError for another one."""
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index("label")])
    reader = pa.ipc.open_file(source, options=options)
    batch = reader.get_batch(0)
    batch.validate(full=True)
    if reader.num_record_batches != 1:
        raise ValueError(f"{reader.num_record_batches} record batches")
    if len(batch) != rows:
        raise ValueError(f"{len(batch)} rows")
    return batch.column("label").to_numpy()


def first_byte(head: bytes, schema: pa.Schema) -> int:
    """The offset of the first column's values in an Arrow IPC file, which no column has nulls in: after the messages of
    the schema and of the only record batch, each with its length before it. Raises ValueError for another schema."""
    found = pa.ipc.read_schema(pa.py_buffer(head[MAGIC:]))
    if not found.equals(schema, check_metadata=True):
        raise ValueError("columns " + ", ".join(f"{field.name} {field.type}" for field in found))
    end = MAGIC
    for _ in range(2):
        mark, length = struct.unpack_from("<Ii", head, end)
        if mark != 0xFFFFFFFF:
            raise ValueError("no message")
        end += 8 + length
    return end


def end_of(begin: int, schema: pa.Schema, rows: int) -> list[int]:
    """The bytes where a record batch may end whose values begin at byte `begin`: one for each padding of Arrow's."""
    sizes = [rows * field.type.byte_width for field in schema]
    return [begin + sum(-(-size // to) * to for size in sizes) for to in PADDED]


def unreadable_error(path: object, rows: int, error: Exception) -> DataError:
    """The error for a file that is no shard of so many rows."""
    return DataError(
        "a shard cannot be read", where=path, expected=f"an Arrow IPC file with {rows} rows", got=error, remedy=AGAIN
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError for what is no regular file."""
    with open_regular(path) as file:
        return digests.sha256(file)
