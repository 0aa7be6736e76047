"""The files of shards with pixels: an Arrow IPC file with one record batch each.

Columns: `image`, fixed-size binary of H * W * C bytes in that order; `label`, int32; and `coarse`, int32, where the
classes have superclasses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist import digests
from ffdist.data.manifest import ShardFile, SplitFiles
from ffdist.data.watch import AGAIN
from ffdist.errors import DataError

SHARD_BYTES = 64 * 2**20


def shard_schema(shape: tuple[int, int, int], coarse: bool) -> pa.Schema:
    """shape: (C, H, W)."""
    c, h, w = shape
    columns = [("image", pa.binary(h * w * c)), ("label", pa.int32()), *([("coarse", pa.int32())] if coarse else [])]
    return pa.schema(columns, metadata={"shape_hwc": f"{h},{w},{c}", "dtype": "uint8"})


class ShardWriter:
    """Writes the shards of one split, with one shard in memory."""

    def __init__(
        self, folder: Path, split: str, shape: tuple[int, int, int], num_classes: int,
        superclass: tuple[int, ...] | None = None, shard_bytes: int = SHARD_BYTES,
    ) -> None:  # fmt: skip
        self.folder, self.split, self.superclass = folder, split, superclass
        self.schema = shard_schema(shape, superclass is not None)
        c, h, w = shape
        self.images = np.empty((max(1, shard_bytes // (h * w * c)), h * w * c), np.uint8)
        self.labels = np.empty(len(self.images), np.int32)
        self.rows = 0
        self.counts = np.zeros(num_classes, np.int64)
        self.files: list[ShardFile] = []

    def add(self, pictures: np.ndarray, labels: np.ndarray) -> None:
        """pictures: uint8 [N, H, W, C]; labels: int [N]."""
        flat = pictures.reshape(len(pictures), self.images.shape[1])
        while len(flat):
            room = slice(self.rows, self.rows + len(flat))
            taken = len(self.labels[room])
            self.images[room], self.labels[room] = flat[:taken], labels[:taken]
            self.rows += taken
            flat, labels = flat[taken:], labels[taken:]
            if self.rows == len(self.labels):
                self.flush()

    def flush(self) -> None:
        """Write what is held as one shard."""
        path = self.folder / f"{self.split}-{len(self.files):05d}.arrow"
        labels = self.labels[: self.rows]
        pixels = pa.py_buffer(self.images[: self.rows])
        columns = [pa.Array.from_buffers(self.schema.field("image").type, self.rows, [None, pixels]), pa.array(labels)]
        if self.superclass is not None:
            columns.append(pa.array(np.array(self.superclass, np.int32)[labels]))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self.schema) as file:
            file.write_batch(pa.record_batch(columns, schema=self.schema))
        self.files.append(ShardFile(path.name, self.rows, path.stat().st_size, sha256(path)))
        self.counts += np.bincount(labels, minlength=len(self.counts))
        self.rows = 0

    def finish(self) -> SplitFiles:
        if self.rows:
            self.flush()
        return SplitFiles(self.files, self.counts.tolist())


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


def unreadable(path: object, rows: int, error: Exception) -> DataError:
    """For a file that is no shard of so many rows."""
    return DataError("a shard cannot be read", where=path, expected=f"an Arrow IPC file with {rows} rows", got=error,
                     remedy=AGAIN)  # fmt: skip


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return digests.sha256(file)
