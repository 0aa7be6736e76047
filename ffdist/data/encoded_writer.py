"""Writing shards of encoded pictures: JPEG, PNG and whatever else Pillow reads, byte for byte as they were.

A source is often in the order of its classes, and shards are read a few at a time. So the samples are
distributed over the shards at random, and each shard is a fair sample of all; the index keeps the order of the source.

    SPLIT-00000.arrow   Arrow IPC, one record batch: `image`, binary; `label`, int32; `sample`, int64: its place in the
                        source's order
    SPLIT-index.arrow   Arrow IPC, a row for each sample in the source's order: `shard`, int32; `start` and `length`,
                        int64: the picture's bytes in that file; `label`, int32
    SPLIT-digests.arrow see `ffdist.data.row_digests`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist.data.arrow_file import write_arrow_file
from ffdist.data.manifest import ShardFile, SplitFiles
from ffdist.data.row_digests import digests_of, write_digests
from ffdist.data.sampler import generator

SHARD_BYTES = 64 * 2**20
SHARD = pa.schema(
    [("image", pa.binary()), ("label", pa.int32()), ("sample", pa.int64())], metadata={"encoded": "as they were"}
)
INDEX = pa.schema([("shard", pa.int32()), ("start", pa.int64()), ("length", pa.int64()), ("label", pa.int32())])


class EncodedWriter:
    """Writes the encoded shards of one split. In memory are three numbers a sample, and at the end one shard.

    samples: how many will come, at most; bytes: about how large they are in all, by which the shards are counted.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        num_classes: int,
        *,
        samples: int,
        bytes: int,
    ) -> None:
        self.folder = folder
        self.split = split
        self.num_classes = num_classes
        self.shards = max(1, min(samples, -(-bytes // SHARD_BYTES)))
        places = generator(0, "deal").permutation(samples) if self.shards > 1 else np.arange(samples)
        self.owner = (places * self.shards // max(1, samples)).astype(np.int32)
        """int [samples]: the spool that each goes to."""
        self.labels = np.empty(samples, np.int32)
        self.lengths = np.empty(samples, np.int64)
        self.digests = np.empty(samples, np.int64)
        self.rows = 0
        self.files: list[ShardFile] = []

    def spool(self, shard: int) -> Path:
        """The file that collects a shard's pictures end to end, until all have come."""
        return self.folder / f".{self.split}-{shard:05d}.spool"

    def add(self, pictures: list[bytes], labels: np.ndarray) -> None:
        """Add samples in the source's order. pictures: N encoded ones; labels: int [N]."""
        rows = slice(self.rows, self.rows + len(pictures))
        self.labels[rows] = labels
        self.lengths[rows] = [len(picture) for picture in pictures]
        self.digests[rows] = digests_of(pictures)
        owner = self.owner[rows]
        for shard in np.unique(owner):
            with self.spool(shard).open("ab") as file:
                file.writelines(pictures[place] for place in np.flatnonzero(owner == shard))
        self.rows += len(pictures)

    def finish(self) -> SplitFiles:
        """Write the shards, the index and the digests, and remove the spools."""
        rows = np.argsort(self.owner[: self.rows], kind="stable")
        ends = np.searchsorted(self.owner[rows], np.arange(self.shards), side="right")
        index = np.zeros((2, self.rows), np.int64)  # shard, start
        for shard, part in enumerate(np.split(rows, ends[:-1])):
            start = 0
            for some in self.parts(part):
                index[:, some] = self.flush(shard, start, some)
                start += int(self.lengths[some].sum())
            self.spool(shard).unlink(missing_ok=True)
        labels = self.labels[: self.rows]
        counts = np.bincount(labels, minlength=self.num_classes).tolist()
        digest_file = write_digests(self.folder, self.split, labels, self.digests[: self.rows])
        return SplitFiles(self.files, counts, self.write_index(*index), digest_file)

    def parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows of a spool in shards of twice the usual size at most, where its pictures are larger than thought."""
        if not len(rows):
            return []
        ends = np.cumsum(self.lengths[rows])
        return np.split(rows, np.searchsorted(ends, np.arange(2 * SHARD_BYTES, ends[-1], 2 * SHARD_BYTES)))

    def flush(self, shard: int, offset: int, rows: np.ndarray) -> np.ndarray:
        """Write a shard of the spool's bytes from `offset` on: int [2, rows], its number and where each picture is."""
        if not len(rows):
            return np.empty((2, 0), np.int64)
        lengths = self.lengths[rows]
        with self.spool(shard).open("rb") as file:
            file.seek(offset)
            data = file.read(int(lengths.sum()))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        labels = self.labels[rows]
        image = pa.Array.from_buffers(
            pa.binary(), len(rows), [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(data)]
        )
        columns = [image, pa.array(labels), pa.array(rows.astype(np.int64))]
        path = self.folder / f"{self.split}-{len(self.files):05d}.arrow"
        self.files.append(write_arrow_file(path, pa.record_batch(columns, schema=SHARD)))
        return np.stack([np.full(len(rows), len(self.files) - 1), starts[:-1] + first_byte(path)])

    def write_index(self, shard: np.ndarray, start: np.ndarray) -> ShardFile:
        """Write the index file: shard and start of each sample, in the source's order."""
        columns = [pa.array(shard.astype(np.int32)), pa.array(start), pa.array(self.lengths[: self.rows])]
        batch = pa.record_batch([*columns, pa.array(self.labels[: self.rows])], schema=INDEX)
        return write_arrow_file(self.folder / f"{self.split}-index.arrow", batch)


def first_byte(path: Path) -> int:
    """The offset at which the pictures of a shard begin in its file."""
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        pictures = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0).column("image").buffers()[2]
        return pictures.address - whole.address
