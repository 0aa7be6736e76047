"""Digests of whole files, and of what JSON files say."""

from __future__ import annotations

import hashlib
import json
from typing import Any, BinaryIO

CHUNK = 1 << 20
"""Bytes read at a time."""
DIGEST = "digest"
"""The key of a JSON file's digest of all else in it."""
OTHER_DIGEST = "its content does not have its digest"
"""What is said of one that was changed."""


def sha256(file: BinaryIO) -> str:
    """sha256 of all that is left to be read, as hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def of_json(values: Any) -> str:
    """The digest of JSON, in whatever order and spacing, as hexadecimal digits."""
    as_read = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def with_digest(values: dict[str, Any]) -> dict[str, Any]:
    """The same, and their digest."""
    return values | {DIGEST: of_json(values)}


def without_digest(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse; values of older versions may have none. Raises ValueError where it is another's, TypeError for what
    are no such values."""
    if not isinstance(values, dict):
        raise TypeError("no JSON object")
    rest = {name: value for name, value in values.items() if name != DIGEST}
    if DIGEST in values and values[DIGEST] != of_json(rest):
        raise ValueError(OTHER_DIGEST)
    return rest
