"""The records of a run's epochs in its snapshots.

Each snapshot has all of them. So that one costs the same after ten thousand epochs as after ten, the manifest itself
holds the newest few, and a file beside it the others, packed once and for all as they come.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffdist.errors import DamagedSnapshotError
from ffdist.regular import read_bytes
from ffdist.snapshot.files import RESTORE, check_file

RECORDS = "records.jsonl.gz"
"""A JSON object a line, of the first epoch first; gzip, so `zcat` shows it."""
PACKED = 64
"""Records that are packed at once; a manifest holds 1 to as many."""
GZIP = 16 + zlib.MAX_WBITS
"""zlib's word for gzip's format, with no time in it."""
MAX_PACKED = 500
"""Bytes of text that a packed byte may stand for: records have about 10, and gzip could be made to hold a thousand."""


class PackedRecords:
    """All records but the newest, as they are written beside each snapshot's manifest: about 200 bytes an epoch."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.count = 0
        self.digest = hashlib.sha256()

    def add(self, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """records: all of the run so far, whose earlier ones have not changed. Returns those that stay unpacked."""
        while len(records) - self.count > PACKED:
            texts = [json.dumps(record) + "\n" for record in records[self.count : self.count + PACKED]]
            packer = zlib.compressobj(wbits=GZIP)
            member = packer.compress("".join(texts).encode()) + packer.flush()
            self.data += member
            self.digest.update(member)
            self.count += PACKED
        return records[self.count :]

    @property
    def entry(self) -> dict[str, Any]:
        """The file's entry in a manifest."""
        return {"file": RECORDS, "bytes": len(self.data), "sha256": self.digest.hexdigest()}


def read_packed(path: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The inverse. Raises DamagedSnapshotError for a file that is missing, or is not as it was written."""
    check_file(path, entry)
    try:
        return [json.loads(line) for line in unpacked(read_bytes(path)).splitlines()]
    except (OSError, ValueError, RecursionError, zlib.error) as error:
        raise DamagedSnapshotError(
            "a snapshot file was not written by ffdist", where=path, got=error, remedy=RESTORE
        ) from error


def unpacked(data: bytes) -> bytes:
    """The members of a gzip file, one after the other. Raises ValueError for what claims to be far larger than records
    are, or ends too early."""
    parts = []
    while data:
        unpacker = zlib.decompressobj(wbits=GZIP)
        parts.append(unpacker.decompress(data, MAX_PACKED * len(data)))
        if not unpacker.eof:
            raise ValueError("cut off, or too much of one thing")
        data = unpacker.unused_data
    return b"".join(parts)
