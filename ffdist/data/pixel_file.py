"""One shard of pixels of this machine, read row by row.

By positioned reads and not through a memory map: a file that is cut off meanwhile is an error that names the row, and
no signal that ends the process.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist.data.images import check_labels
from ffdist.data.manifest import DataManifest, ShardFile
from ffdist.data.shard_files import HEAD, end_of, first_byte, labels_in, shard_schema, unreadable_error
from ffdist.data.watch import FileWatch

END = b"\xff\xff\xff\xff\0\0\0\0"
"""What stands after the last record batch of an Arrow IPC file."""


class PixelFile:
    """A shard, opened for a moment: its labels are read, and where its pixels are.

    Raises DataError where it is missing, is of another size or schema, or has a label out of range.
    """

    def __init__(self, path: Path, shard: ShardFile, manifest: DataManifest) -> None:
        self.watch = FileWatch(path, shard)
        schema = shard_schema(manifest.shape, manifest.superclass is not None)
        self.width = schema.field("image").type.byte_width
        try:
            with pa.OSFile(str(path)) as source:
                labels = labels_in(source, schema, shard.rows)
            with path.open("rb", buffering=0) as file:
                self.begin = pixels_begin(file.fileno(), schema, shard.rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            self.watch.check()
            raise unreadable_error(path, shard.rows, error) from error
        check_labels(labels, len(manifest.classes), path)
        self.labels = labels
        """int32 [rows]."""

    def where(self, row: int) -> str:
        """The file and row, for errors."""
        return f"{self.watch.path}, row {row}"

    def read(self, rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Read rows of the shard into the rows `places` of `out`, uint8 [N, H * W * C].

        Raises DataError for a shard that is gone or has changed.
        """
        view, width = out.data.cast("B"), self.width
        at, cut = int(rows[0]), False
        try:
            descriptor = os.open(self.watch.path, os.O_RDONLY)
            try:
                for row, place, count in runs(rows, places):
                    own = view[place * width : (place + count) * width]
                    if read_into(descriptor, own, self.begin + row * width) < len(own):
                        at, cut = row, True
                        break
                status = os.fstat(descriptor)  # after the reads: what was read is what was opened
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self.watch.lost_error(error) from error
        self.watch.compare(status, self.where(at), truncated=cut)


def pixels_begin(descriptor: int, schema: pa.Schema, rows: int) -> int:
    """The first byte of the pixels. Raises ValueError where they do not stand as they are and end where the labels
    begin, as with rows left out or compressed."""
    begin = first_byte(os.pread(descriptor, HEAD, 0), schema)
    if not any(os.pread(descriptor, len(END), end) == END for end in end_of(begin, schema, rows)):
        raise ValueError("pixels that are not as they were written")
    return begin


def runs(rows: np.ndarray, places: np.ndarray) -> list[tuple[int, int, int]]:
    """Neighbours that also become neighbours, read at once: the first row, its place, and how many."""
    ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
    starts = np.concatenate([[0], ends])[: len(rows)]
    counts = np.diff(starts, append=len(rows))
    return list(zip(rows[starts].tolist(), places[starts].tolist(), counts.tolist(), strict=True))


def read_into(descriptor: int, view: memoryview, start: int) -> int:
    """Bytes that were read from `start` on; fewer than `view` takes at the end of the file alone."""
    done = os.preadv(descriptor, (view,), start)
    while 0 < done < len(view) and (more := os.preadv(descriptor, (view[done:],), start + done)):
        done += more
    return done
