"""PNGs that hold less than their header claims: Pillow leaves the rest black, and says nothing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ffdist.data.formats import Encoded

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Numbers a pixel, by the header's type of colour."""
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced picture: first column and row, steps across and down."""
CHUNK = 2**16


def check_rows(image: Image.Image, data: Encoded) -> None:
    """image: read. Only one whose last row is black can have lost rows; then what it holds is counted.

    Raises ValueError for less than its header claims.
    """
    if image.format != "PNG" or not isinstance(data, (bytes, Path)):
        return
    width, height = image.size
    if np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    content = data if isinstance(data, bytes) else data.read_bytes()
    wide, high, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * SAMPLES.get(colour, 1)
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(wide - left) // across), -(-(high - top) // down)) for left, top, across, down in passes)
    claimed = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if rows > 0 and columns > 0)
    if (held := inflated(content, claimed)) < claimed:
        raise ValueError(f"it holds {held:,} bytes of the {claimed:,} for the {wide} x {high} pixels in its header")


def inflated(content: bytes, limit: int) -> int:
    """Bytes that the picture's data are decompressed to, counted up to `limit`, in little memory."""
    stream, count = zlib.decompressobj(), 0
    for part in parts(content):
        while part and count < limit:
            count += len(stream.decompress(part, CHUNK))
            part = stream.unconsumed_tail
    return count


def parts(content: bytes) -> Iterator[bytes]:
    """The contents of a PNG's IDAT chunks, one after the other."""
    place = 8
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += length + 12
