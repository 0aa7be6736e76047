"""Arrow shards on disk: written once, then read through the memory map without a copy.

A shard is an Arrow IPC file with one record batch: `image`, fixed-size binary of H * W * C bytes in that order;
`label`, int32; and `coarse`, int32, where the classes have superclasses.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist import digests
from ffdist.data.encoded import EncodedSplit
from ffdist.data.images import ArraySplit, Images, Split, check_labels
from ffdist.data.manifest import Manifest, ShardFile, SplitFiles, read_manifest
from ffdist.data.watch import AGAIN, Watch
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


class ShardSplit(Split):
    """A split of a prepared folder. Opening it reads labels and sizes, and no pixels."""

    def __init__(self, folder: Path, manifest: Manifest, name: str) -> None:
        self.source = (folder, manifest, name)
        self.shape_hwc = (*manifest.shape[1:], manifest.shape[0])
        files = manifest.splits[name].files
        self.watched = [Watch(folder / shard.file, shard) for shard in files]
        opened = [open_shard(folder / shard.file, shard, manifest) for shard in files]
        self.shards = [pixels for pixels, _ in opened]
        self.labels = np.concatenate([labels for _, labels in opened]).astype(np.int64)
        self.starts = np.cumsum([0, *(len(pixels) for pixels in self.shards)])
        counts = np.bincount(self.labels, minlength=len(manifest.classes)).tolist()
        if counts != manifest.splits[name].counts:
            raise DataError("labels are not those that the manifest counts", where=f"{folder}, split {name}",
                            expected=manifest.splits[name].counts, got=counts, remedy=AGAIN)  # fmt: skip

    def take(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), self.shards[0].shape[1]), np.uint8)
        owner = self.shard_of(indices)
        for shard in np.unique(owner):
            self.watched[shard].check()  # before: a page behind the end of a file that was cut off ends the process
            mine = np.flatnonzero(owner == shard)
            out[mine] = self.shards[shard][indices[mine] - self.starts[shard]]
            self.watched[shard].check()  # and behind: what was read is what was opened
        return out.reshape(len(indices), *self.shape_hwc)

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1

    def digest(self) -> str:
        """Of the shards' checksums: no pixel is read."""
        _, manifest, name = self.source
        files = [(shard.rows, shard.sha256) for shard in manifest.splits[name].files]
        return hashlib.blake2b(repr(files).encode(), digest_size=16).hexdigest()

    def __reduce__(self) -> tuple:
        return ShardSplit, self.source  # another process maps the files itself


def open_shard(path: Path, shard: ShardFile, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, H * W * C] and labels int32 [N], both in the memory map.

    Raises DataError for a shard of another schema, or that has a label out of range.
    """
    schema = shard_schema(manifest.shape, manifest.superclass is not None)
    try:
        pixels, labels = columns(path, schema, shard.rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError("a shard cannot be read", where=path, expected=f"an Arrow IPC file with {shard.rows} rows",
                        got=error, remedy=AGAIN) from error  # fmt: skip
    check_labels(labels, len(manifest.classes), path)
    return pixels, labels


def columns(path: Path, schema: pa.Schema, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the only record batch."""
    with pa.memory_map(str(path)) as source:  # its buffers outlive the open file
        reader = pa.ipc.open_file(source)
        if not reader.schema.equals(schema, check_metadata=True) or reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches of {reader.schema.to_string()}")
        batch = reader.get_batch(0)
        batch.validate()
    if len(batch) != rows:
        raise ValueError(f"{len(batch)} rows")
    width = schema.field("image").type.byte_width
    pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8, rows * width)
    return pixels.reshape(rows, width), batch.column("label").to_numpy()


def open_split(folder: Path, manifest: Manifest, name: str) -> Split:
    kind = EncodedSplit if manifest.splits[name].index else ShardSplit
    return kind(folder, manifest, name)


def open_folder(folder: Path) -> Images:
    """A prepared folder, memory-mapped; where it has no training split, that has no samples.

    Raises DataError for what cheap checks can find; `verify` finds the rest.
    """
    manifest = read_manifest(folder)
    splits = {name: open_split(folder, manifest, name) for name in manifest.splits}
    channels, height, width = manifest.shape
    decoding = manifest.decoding and replace(manifest.decoding, size=(height, width))
    return Images(
        manifest.name,
        splits.get("train") or ArraySplit(np.empty((0, height, width, channels), np.uint8), np.empty(0, np.int64)),
        splits.get("test"),
        manifest.classes,
        manifest.shape,
        manifest.mean,
        manifest.std,
        manifest.superclass,
        validation=splits.get("validation"),
        decoding=decoding,
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return digests.sha256(file)
