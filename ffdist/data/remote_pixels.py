"""Pixels of a remote folder: of each shard the samples that are taken, and no others."""

from __future__ import annotations

import struct
from threading import Lock

import numpy as np
import pyarrow as pa

from ffdist.data.images import Split, check_labels
from ffdist.data.manifest import DataManifest, ShardFile
from ffdist.data.parts import ByteRange, FileParts, RemoteParts, remote_errors
from ffdist.data.row_digests import first_other, not_as_written_error, read_digests
from ffdist.data.shard_files import HEAD, columns_in, first_byte, labels_in, shard_schema, unreadable_error
from ffdist.errors import DataError
from ffdist.remote import RemoteFolder

HELD = 2 * 2**30
"""Bytes of a remote folder's pixels that stay in memory, at most."""
GAP = 2**18
"""Bytes between two samples that are fetched with them, as a request more would take longer."""


class CachedRows:
    """The rows of a remote shard that are here."""

    def __init__(self, rows: int) -> None:
        self.place = np.full(rows, -1, np.int64)
        """The place of each sample in `pixels`, or -1."""
        self.pixels = np.empty((0, 0), np.uint8)
        self.begin: int | None = None
        """The byte at which pixels begin in the file, once it is known."""

    def add(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        """pixels: uint8 [len(rows), H * W * C]."""
        self.place[rows] = len(self.pixels) + np.arange(len(rows))
        self.pixels = np.concatenate([self.pixels, pixels]) if len(self.pixels) else pixels


class RemoteSplit(Split):
    """A split of a remote folder with pixels. Opening it reads labels and no pixels. When a sample of a shard is taken,
    those that were announced are fetched with it: the whole shard, compared with its checksum, or the ranges of bytes
    in which they lie. The last `HELD` bytes of them stay."""

    ready = False

    def __init__(self, folder: RemoteFolder, manifest: DataManifest, name: str) -> None:
        self.source = (folder, manifest, name)
        self.shape_hwc = (*manifest.shape[1:], manifest.shape[0])
        self.width = int(np.prod(self.shape_hwc))
        self.schema = shard_schema(manifest.shape, manifest.superclass is not None)
        self.shards = manifest.splits[name].files
        self.files = RemoteParts(folder, manifest.splits[name].listed)
        labels, self.digests = remote_digests(folder, self.files, manifest, name)
        if labels is None:
            labels = np.concatenate([remote_labels(folder, shard, self.schema) for shard in self.shards])
        for shard, each in zip(self.shards, np.split(labels, np.cumsum([s.rows for s in self.shards])), strict=False):
            check_labels(each, len(manifest.classes), folder / shard.file)
        self.labels = labels.astype(np.int64)
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        manifest.splits[name].check_counts(self.labels, len(manifest.classes), f"{folder}, split {name}")
        self.fits = sum(shard.bytes for shard in self.shards) <= HELD
        self.announced = np.zeros(len(self.labels), bool)
        self.held: dict[int, CachedRows] = {}
        # held while bytes are fetched, too: loader threads want rows of the same shards, which would come twice
        self.lock = Lock()

    def announce(self, indices: np.ndarray) -> None:
        with self.lock:
            self.announced[indices] = True

    def take(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), self.width), np.uint8)
        owner = self.shard_of(indices)
        for shard in np.unique(owner).tolist():
            mine = np.flatnonzero(owner == shard)
            out[mine] = self.pixels(shard, indices[mine] - self.starts[shard])
        return out.reshape(len(indices), *self.shape_hwc)

    def pixels(self, shard: int, rows: np.ndarray) -> np.ndarray:
        """uint8 [N, H * W * C] of rows of a shard; one thread fetches at a time."""
        with self.lock:
            held = self.held.pop(shard, None) or CachedRows(self.shards[shard].rows)
            if (held.place[rows] < 0).any():
                wanted = self.announced[self.starts[shard] : self.starts[shard + 1]].copy()
                wanted[rows] = True
                self.fetch(shard, held, np.flatnonzero(wanted & (held.place < 0)))
                self.announced[self.starts[shard] : self.starts[shard + 1]] = False
            self.held[shard] = held  # put at the end: the least recently used shard is dropped first
            return held.pixels[held.place[rows]]

    def fetch(self, shard: int, held: CachedRows, rows: np.ndarray) -> None:
        """rows: sorted, none of them here."""
        file, max_gap = self.shards[shard], max(1, GAP // self.width)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > max_gap) + 1)
        spans = [(int(run[0]), int(run[-1]) + 1) for run in runs]
        if 2 * sum(end - start for start, end in spans) > file.rows:
            held.add(np.flatnonzero(held.place < 0), self.whole(shard)[held.place < 0])
        else:
            begin = self.begin(shard, held)
            parts = [
                ByteRange(file.file, begin + start * self.width, (end - start) * self.width) for start, end in spans
            ]
            for run, (start, _), data in zip(runs, spans, self.files.read(parts), strict=True):
                held.add(
                    run, self.compared(shard, run, np.frombuffer(data, np.uint8).reshape(-1, self.width)[run - start])
                )
        while self.held and sum(each.pixels.nbytes for each in self.held.values()) + held.pixels.nbytes > HELD:
            del self.held[next(iter(self.held))]

    def compared(self, shard: int, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Pixels of rows of a shard, uint8 [N, H * W * C]. Raises DataError where they are not what was written."""
        if self.digests is not None:
            other = first_other(np.ascontiguousarray(pixels), self.digests[self.starts[shard] + rows])
            if other is not None:
                raise not_as_written_error(f"{self.source[0] / self.shards[shard].file}, row {rows[other]}")
        return pixels

    def whole(self, shard: int) -> np.ndarray:
        """Pixels of all rows of a shard, uint8 [rows, H * W * C], fetched whole and compared with its checksum."""
        file = self.shards[shard]
        data = self.files.whole(file.file)
        try:
            return columns_in(pa.BufferReader(data), self.schema, file.rows)[0]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable_error(self.source[0] / file.file, file.rows, error) from error

    def begin(self, shard: int, held: CachedRows) -> int:
        """The first byte of a shard's pixels in its file, fetched once. Raises DataError for what is no shard."""
        if held.begin is None:
            file = self.shards[shard]
            (head,) = self.files.read([ByteRange(file.file, 0, min(HEAD, file.bytes))])
            try:
                held.begin = first_byte(head, self.schema)
            except (pa.ArrowException, OSError, ValueError, struct.error) as error:
                raise unreadable_error(self.source[0] / file.file, file.rows, error) from error
        return held.begin

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1

    def digest(self) -> str:
        _, manifest, name = self.source
        return manifest.splits[name].digest()

    def __reduce__(self) -> tuple:
        return RemoteSplit, self.source


def remote_digests(
    folder: RemoteFolder, files: FileParts, manifest: DataManifest, name: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels int32 [N] and digests int64 [N] of a split; None of both where it was written without."""
    split_files = manifest.splits[name]
    if split_files.digests is None:
        return None, None
    return read_digests(files.whole(split_files.digests.file), split_files.rows, folder / split_files.digests.file)


def remote_labels(folder: RemoteFolder, shard: ShardFile, schema: pa.Schema) -> np.ndarray:
    """int32 [rows], by requests for the bytes of labels alone. Raises DataError for what is no such shard."""
    try:
        with remote_errors(folder / shard.file, "a shard cannot be read"), folder.opened(shard.file) as file:
            return labels_in(pa.PythonFile(file, mode="r"), schema, shard.rows)
    except DataError:
        raise
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise unreadable_error(folder / shard.file, shard.rows, error) from error
