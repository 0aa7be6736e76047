"""A digest of each sample as it was written, in a file of its own beside the shards of a split.

Of a remote shard only the ranges are fetched in which the wanted samples lie; the checksum of the whole file says
nothing of those, and these do. The file itself is small, is read as a whole, and the manifest has its checksum.

    SPLIT-digests.arrow   Arrow IPC, a row for each sample in the split's order: `label`, int32; `digest`, int64:
                          BLAKE2b of eight bytes, of its pixels or of the picture as it is encoded
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ffdist.data.arrow_file import write_arrow_file
from ffdist.data.manifest import AGAIN, ShardFile
from ffdist.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

SCHEMA = pa.schema([("label", pa.int32()), ("digest", pa.int64())])


def digest_of(sample: Buffer) -> int:
    """The digest of a sample's bytes, which are contiguous, as an int64."""
    return int.from_bytes(hashlib.blake2b(sample, digest_size=8).digest(), "little", signed=True)


def digests_of(samples: Iterable[Buffer]) -> np.ndarray:
    """int64 [N], of the bytes of each."""
    return np.fromiter(map(digest_of, samples), np.int64)


def write_digests(folder: Path, split: str, labels: np.ndarray, digests: np.ndarray) -> ShardFile:
    """labels: int [N]; digests: int64 [N]."""
    batch = pa.record_batch([pa.array(labels.astype(np.int32)), pa.array(digests)], schema=SCHEMA)
    return write_arrow_file(folder / f"{split}-digests.arrow", batch)


def read_digests(data: bytes, rows: int, where: object) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 [rows] and digests int64 [rows] of the file's bytes. Raises DataError for other bytes."""
    try:
        reader = pa.ipc.open_file(pa.BufferReader(data))
        if not reader.schema.equals(SCHEMA) or reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches of {reader.schema.to_string()}")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        if len(batch) != rows:
            raise ValueError(f"{len(batch)} rows")
        return batch.column("label").to_numpy(), batch.column("digest").to_numpy()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "the digests of a split cannot be read",
            where=where,
            got=error,
            remedy=AGAIN,
            expected=f"an Arrow IPC file with {rows} rows",
        ) from error


def first_other(samples: Iterable[Buffer], digests: np.ndarray) -> int | None:
    """The place of the first sample that is not the one of its digest, int64 [N]; None where all are."""
    others = np.flatnonzero(digests_of(samples) != digests)
    return int(others[0]) if len(others) else None


def not_as_written_error(where: object) -> DataError:
    """The error for a sample whose bytes are not those that were written."""
    return DataError(
        "a sample of a shard is not what was written",
        where=where,
        expected="the bytes of its digest",
        got="other bytes: the shard has changed, or was damaged on the way",
        remedy=f"ffdist data check FOLDER tells which; restore it, or {AGAIN}; then go on from the last snapshot",
    )
