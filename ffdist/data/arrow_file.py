"""Arrow files of one record batch, as the manifest lists them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ffdist import digests
from ffdist.data.manifest import ShardFile


def write_arrow_file(path: Path, batch: pa.RecordBatch) -> ShardFile:
    """Write one record batch as an Arrow IPC file; returns its name, rows, bytes and checksum."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    with path.open("rb") as file:
        return ShardFile(path.name, len(batch), path.stat().st_size, digests.sha256(file))
