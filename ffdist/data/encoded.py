"""Pictures that are decoded when they are taken, out of shards that keep them as they were encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist.data.decode import DEFAULT_DECODING, decode
from ffdist.data.encoded_writer import INDEX
from ffdist.data.images import Split, check_labels
from ffdist.data.manifest import AGAIN, DataManifest
from ffdist.data.parts import ByteRange, opened_parts
from ffdist.data.remote_pixels import remote_digests
from ffdist.data.row_digests import first_other, not_as_written_error
from ffdist.errors import DataError
from ffdist.remote import RemoteFolder

WINDOW = 8
"""Shards that are mixed at a time in what is larger than `STREAMED`."""
STREAMED = 4 * 2**30
"""Bytes of encoded pictures; more than that may not stay in memory, and is read a few shards at a time."""


class EncodedSplit(Split):
    """A split of a folder with encoded pictures. Opening it reads the index alone; what is in memory is three numbers a
    sample.

    size: (height, width) that pictures are decoded to; default: what the folder says. Samples are in the order of the
    source, wherever they lie.
    """

    ready = False

    def __init__(
        self, folder: Path | RemoteFolder, manifest: DataManifest, name: str, size: tuple[int, int] | None = None
    ) -> None:
        self.source = (folder, manifest, name)
        self.channels, *shape = manifest.shape
        self.size = size or (shape[0], shape[1])
        self.decoding = replace(
            manifest.decoding or DEFAULT_DECODING, size=self.size, mode="grey" if self.channels == 1 else "rgb"
        )
        split_files = manifest.splits[name]
        assert split_files.index, "a split of encoded pictures"
        self.files = opened_parts(folder, split_files.listed)
        self.shards, self.starts, self.lengths, labels = read_index(
            self.files.whole(split_files.index.file), f"{folder}, {name}"
        )
        check_index(
            self,
            split_files.index.rows,
            [shard.bytes for shard in split_files.files],
            f"{folder}, {split_files.index.file}",
        )
        check_labels(labels, len(manifest.classes), f"{folder}, {split_files.index.file}")
        self.labels = labels.astype(np.int64)
        split_files.check_counts(self.labels, len(manifest.classes), f"{folder}, split {name}")
        self.digests = None
        """int64 [N], of a remote folder's pictures: those here are looked at as files."""
        if isinstance(folder, RemoteFolder):
            remote_labels, self.digests = remote_digests(folder, self.files, manifest, name)
            if remote_labels is not None and not np.array_equal(remote_labels, labels):
                raise DataError(
                    "the index of a split has other labels than its digests",
                    remedy=AGAIN,
                    where=f"{folder}, split {name}",
                )
        self.window = WINDOW if sum(shard.bytes for shard in split_files.files) > STREAMED else 0

    def at(self, size: tuple[int, int]) -> EncodedSplit:
        return self if size == self.size else EncodedSplit(*self.source, size)

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return self.shards[indices]

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """The very bytes of these pictures. Raises DataError for a shard that is gone or has changed."""
        files = self.source[1].splits[self.source[2]].files
        parts = [
            ByteRange(files[self.shards[i]].file, int(self.starts[i]), int(self.lengths[i]), EncodedSampleName(self, i))
            for i in indices
        ]
        data = self.files.read(parts)
        if self.digests is not None and (other := first_other(data, self.digests[indices])) is not None:
            raise not_as_written_error(parts[other].where)
        return data

    def where(self, index: int) -> str:
        """The file and row of a sample."""
        folder, manifest, name = self.source
        shard = self.shards[index]
        row = np.count_nonzero((self.shards == shard) & (self.starts < self.starts[index]))
        return f"{folder}/{manifest.splits[name].files[shard].file}, row {row}"

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Raises DataError naming file and row of a picture that cannot be decoded."""
        out = np.empty((len(indices), *self.size, self.channels), np.uint8)
        for place, (index, data) in enumerate(zip(indices, self.encoded(indices), strict=True)):
            out[place] = decode(data, EncodedSampleName(self, index), self.decoding)
        return out

    @property
    def one_size(self) -> bool:
        return False

    def pictures(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Raises DataError naming file and row of a picture that cannot be decoded."""
        whole = replace(self.decoding, size=None)
        for index, data in zip(indices, self.encoded(indices), strict=True):
            yield decode(data, EncodedSampleName(self, index), whole)

    def prepared(self, index: int) -> np.ndarray:
        """uint8 [H, W, C] of a picture as it was prepared: in its own size, unless a size was given then."""
        (data,) = self.encoded(np.array([index]))
        size = (self.source[1].decoding or DEFAULT_DECODING).size
        return decode(data, EncodedSampleName(self, index), replace(self.decoding, size=size))

    def digest(self) -> str:
        """A digest of the checksums of shards and index, and of how they are decoded: no picture is read."""
        _, manifest, name = self.source
        return manifest.splits[name].digest(str(self.decoding))

    def __reduce__(self) -> tuple:
        return EncodedSplit, (*self.source, self.size)  # another process opens the files itself


class EncodedSampleName:
    """A sample's name for an error, found only when the error is printed, since that searches all rows."""

    def __init__(self, split: EncodedSplit, index: int) -> None:
        self.split = split
        self.index = index

    def __str__(self) -> str:
        return self.split.where(self.index)


def read_index(data: bytes, where: object) -> list[np.ndarray]:
    """Shard int32, start and length int64, label int32, of each sample."""
    try:
        reader = pa.ipc.open_file(pa.BufferReader(data))
        if not reader.schema.equals(INDEX) or reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches of {reader.schema.to_string()}")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        return [column.to_numpy() for column in batch.columns]  # zero-copy, and so without nulls
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "the index of a split cannot be read", where=where, expected="an Arrow IPC file", got=error, remedy=AGAIN
        ) from error


def check_index(split: EncodedSplit, rows: int, sizes: Sequence[int], where: str) -> None:
    """Raises DataError naming the first row that points to where no picture can be."""
    if len(split.shards) != rows:
        raise DataError(
            "the index of a split has other rows", where=where, expected=rows, got=len(split.shards), remedy=AGAIN
        )
    known = (split.shards >= 0) & (split.shards < len(sizes))
    room = np.array(sizes)[np.where(known, split.shards, 0)]
    inside = (
        (split.starts >= 0) & (split.lengths > 0) & (split.lengths <= room) & (split.starts <= room - split.lengths)
    )
    bad = np.flatnonzero(~(known & inside))
    if len(bad):
        row = bad[0]
        got = f"shard {split.shards[row]}, bytes {split.starts[row]} to {split.starts[row]} + {split.lengths[row]}"
        raise DataError(
            "the index of a split points to where no picture is",
            where=f"{where}, row {row}",
            expected=f"one of {len(sizes)} shards, and bytes inside it",
            got=got,
            remedy=AGAIN,
        )


def check_shards(split: EncodedSplit) -> None:
    """Raises DataError where shards, which others may read, do not hold what the index says."""
    folder, manifest, name = split.source
    for shard, file in enumerate(manifest.splits[name].files):
        data = split.files.whole(file.file)
        try:
            batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
            batch.validate(full=True)
            samples, labels = batch.column("sample").to_numpy(), batch.column("label").to_numpy()
            lengths = np.diff(np.frombuffer(batch.column("image").buffers()[1], np.int32, len(batch) + 1))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(
                "a shard cannot be read",
                where=f"{folder}/{file.file}",
                expected="an Arrow IPC file",
                got=error,
                remedy=AGAIN,
            ) from error
        mine = np.flatnonzero(split.shards == shard)
        given = (np.sort(samples), labels[np.argsort(samples)], lengths[np.argsort(samples)])
        index = (mine, split.labels[mine], split.lengths[mine])
        if not all(map(np.array_equal, given, index)):
            raise DataError("a shard does not hold what the index says", where=f"{folder}/{file.file}", remedy=AGAIN)
