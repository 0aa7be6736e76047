"""Arrow shards on disk: written once, then read through the memory map without a copy.

A shard is an Arrow IPC file with one record batch: `image`, fixed-size binary of H * W * C bytes in that order;
`label`, int32; and `coarse`, int32, where the classes have superclasses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa

from ffdist import digests
from ffdist.data.encoded import EncodedSplit
from ffdist.data.images import ArraySplit, Images, Split, check_labels
from ffdist.data.manifest import Manifest, ShardFile, SplitFiles, read_manifest
from ffdist.data.parts import RemoteParts, remote_errors
from ffdist.data.watch import AGAIN, Watch
from ffdist.errors import DataError
from ffdist.remote import Remote

SHARD_BYTES = 64 * 2**20
HELD = 2 * 2**30
"""Bytes of a remote folder's pixels that stay in memory, at most."""


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
        manifest.splits[name].check_counts(self.labels, f"{folder}, split {name}")

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
        return manifest.splits[name].digest()

    def __reduce__(self) -> tuple:
        return ShardSplit, self.source  # another process maps the files itself


class RemoteSplit(Split):
    """A split of a remote folder with pixels. Opening it reads labels and no pixels; then shards are fetched when a
    sample of theirs is taken, each compared with its checksum, and the last `HELD` bytes of them stay."""

    ready = False

    def __init__(self, folder: Remote, manifest: Manifest, name: str) -> None:
        self.source = (folder, manifest, name)
        self.shape_hwc = (*manifest.shape[1:], manifest.shape[0])
        self.schema = shard_schema(manifest.shape, manifest.superclass is not None)
        self.shards = manifest.splits[name].files
        self.files = RemoteParts(folder, self.shards)
        labels = [remote_labels(folder, shard, self.schema) for shard in self.shards]
        for shard, of in zip(self.shards, labels, strict=True):
            check_labels(of, len(manifest.classes), folder / shard.file)
        self.labels = np.concatenate(labels).astype(np.int64)
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        manifest.splits[name].check_counts(self.labels, f"{folder}, split {name}")
        self.fits = sum(shard.bytes for shard in self.shards) <= HELD
        self.held: dict[int, np.ndarray] = {}
        self.lock = Lock()

    def take(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), int(np.prod(self.shape_hwc))), np.uint8)
        owner = self.shard_of(indices)
        for shard in np.unique(owner):
            mine = np.flatnonzero(owner == shard)
            out[mine] = self.pixels(int(shard))[indices[mine] - self.starts[shard]]
        return out.reshape(len(indices), *self.shape_hwc)

    def pixels(self, shard: int) -> np.ndarray:
        """uint8 [rows, H * W * C] of a shard; one thread fetches at a time."""
        with self.lock:
            if shard in self.held:
                self.held[shard] = self.held.pop(shard)  # the last to go
                return self.held[shard]
            file = self.shards[shard]
            data = self.files.whole(file.file)
            try:
                pixels, _ = columns_in(pa.BufferReader(data), self.schema, file.rows)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise unreadable(self.source[0] / file.file, file.rows, error) from error
            while self.held and sum(of.nbytes for of in self.held.values()) + pixels.nbytes > HELD:
                del self.held[next(iter(self.held))]
            self.held[shard] = pixels
            return pixels

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1

    def digest(self) -> str:
        _, manifest, name = self.source
        return manifest.splits[name].digest()

    def __reduce__(self) -> tuple:
        return RemoteSplit, self.source


def remote_labels(folder: Remote, shard: ShardFile, schema: pa.Schema) -> np.ndarray:
    """int32 [rows], by requests for the bytes of labels alone. Raises DataError for what is no such shard."""
    options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index("label")])
    try:
        with remote_errors(folder / shard.file, "a shard cannot be read"), folder.opened(shard.file) as file:
            reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"), options=options)
            batch = reader.get_batch(0)
            batch.validate(full=True)
            if reader.num_record_batches != 1 or len(batch) != shard.rows:
                raise ValueError(f"{reader.num_record_batches} record batches, {len(batch)} rows")
            return batch.column("label").to_numpy()
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise unreadable(folder / shard.file, shard.rows, error) from error


def open_shard(path: Path, shard: ShardFile, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, H * W * C] and labels int32 [N], both in the memory map.

    Raises DataError for a shard of another schema, or that has a label out of range.
    """
    schema = shard_schema(manifest.shape, manifest.superclass is not None)
    try:
        pixels, labels = columns(path, schema, shard.rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, shard.rows, error) from error
    check_labels(labels, len(manifest.classes), path)
    return pixels, labels


def columns(path: Path, schema: pa.Schema, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the only record batch."""
    with pa.memory_map(str(path)) as source:  # its buffers outlive the open file
        return columns_in(source, schema, rows)


def columns_in(source: pa.NativeFile, schema: pa.Schema, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [rows, H * W * C] and labels int32 [rows] of the only record batch, without a copy."""
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


def unreadable(path: object, rows: int, error: Exception) -> DataError:
    """For a file that is no shard of so many rows."""
    return DataError("a shard cannot be read", where=path, expected=f"an Arrow IPC file with {rows} rows", got=error,
                     remedy=AGAIN)  # fmt: skip


def open_split(folder: Path | Remote, manifest: Manifest, name: str) -> Split:
    if manifest.splits[name].index:
        return EncodedSplit(folder, manifest, name)
    return RemoteSplit(folder, manifest, name) if isinstance(folder, Remote) else ShardSplit(folder, manifest, name)


def open_folder(folder: Path | Remote) -> Images:
    """A prepared folder, memory-mapped where it is here; where it has no training split, that has no samples.

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
