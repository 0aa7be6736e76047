"""Digests of whole files."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

CHUNK = 1 << 20
"""Bytes read at a time."""


def sha256(file: BinaryIO) -> str:
    """Of all that is left to be read, as hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
