"""A TIFF's own facts on its pixels, beyond Pillow's mode: channels left out, signs, and which end is white."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, TiffImagePlugin

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA, FORMAT, DEPTH = 258, 259, 262, 277, 284, 338, 339, 32997
WIDTH, HEIGHT, STRIPS, ROWS, TILE_WIDTH, TILE_HEIGHT, TILES = 256, 257, 273, 278, 322, 323, 324
"""Numbers of tags."""
FAX = (2, 3, 4)
"""Compressions that take one bit a row at least, however wide it is."""
DENSEST = {1: 1, 5: 2731, 6: 1536, 7: 1536, 8: 1032, 32773: 64, 32946: 1032}
"""To how many bytes each can inflate one, at most: none, LZW, JPEG, Deflate, PackBits."""
LOOSE = 2**15
"""The same factor for all other compressions."""
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Channels of each photometric interpretation: grey, grey, RGB, palette, CMYK, YCbCr, LAB."""
YCBCR = 6
ALPHA = (1, 2, 999)
"""Extra channels that are transparency: premultiplied, plain, and what Corel Draw writes."""
KINDS = {1: "u", 2: "i", 3: "f"}
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class TiffLayout(NamedTuple):
    """The layout of a TIFF's first page."""

    channels: int
    spare: int
    """How many of them are neither colour nor transparency."""
    clear: bool
    """Whether one of them is transparency."""
    bits: int
    kind: str
    """As in NumPy: "u", "i" or "f"."""
    inverted: bool
    """Whether its least value is white."""
    planes: int
    """Slices of a volume, which is one page."""
    apart: bool
    """Whether each channel has a plane of its own."""
    misread: str | None
    """What of it Pillow reads wrongly, without a word."""

    def __str__(self) -> str:
        kinds = {"u": "", "i": "signed ", "f": "floating-point "}
        several = f"{self.channels} channels" if self.channels > 1 else "1 channel"
        return f"{several} of {self.bits} {kinds[self.kind]}bits"


def teach_grey_with_another() -> None:
    """Let Pillow before 13, the last for Python 3.10, read grey with a further channel, as 13 does. One that is no
    transparency, which 13 leaves out itself, looks like it there: see `TiffLayout.spare`."""
    for order in (TiffImagePlugin.II, TiffImagePlugin.MM):
        for extra, mode in ((0, "LA"), (1, "La")):
            TiffImagePlugin.OPEN_INFO.setdefault((order, 1, (1,), 1, (8, 8), (extra,)), (mode, mode))


def layout_of(image: Image.Image) -> TiffLayout | None:
    """The layout of an opened picture; None for other formats, and where its tags are damaged."""
    return read_tags(getattr(image, "tag_v2", None)) if image.format == "TIFF" else None


def read_tags(tags: Any) -> TiffLayout | None:
    """The layout that a TIFF's tags describe; None where they are damaged."""
    try:
        bits = tags.get(BITS, (1,))
        channels = int(tags.get(SAMPLES, len(bits)))
        photometric = int(tags.get(PHOTOMETRIC, 0))
        colours = min(COLOURS.get(photometric, channels), channels)
        extra = tags.get(EXTRA, ())
        apart = channels > 1 and tags.get(PLANAR, 1) == 2
        clear = bool(extra) and extra[0] in ALPHA and channels > colours
        return TiffLayout(
            channels,
            channels - colours - clear,
            clear,
            int(bits[0]),
            KINDS.get(int(tags.get(FORMAT, (1,))[0]), "u"),
            photometric == 0,
            int(tags.get(DEPTH, 1)),
            apart,
            misreading(tags, channels, int(bits[0])) if apart else None,
        )
    except Exception:  # foreign bytes may raise anything here; reading the pixels raises the error for users
        return None


def misreading(tags: Any, channels: int, bits: int) -> str | None:
    """The way in which Pillow misreads channels in planes of their own; None where it does not."""
    if channels == 2:
        return "grey and transparency"
    return "more than 8 bits, uncompressed," if bits > 8 and tags.get(COMPRESSION, 1) == 1 else None


def unreadable_tiff(data: object) -> str | None:
    """A description of the pixels of a TIFF that Pillow cannot read; None for other files."""
    if not isinstance(data, (bytes, Path)):
        return None
    try:
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            header = file.read(8)
            if header[:4] not in MAGIC:
                return None
            header += file.read(8) if header[2] == 43 or header[3] == 43 else b""
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            found = read_tags(tags)
    except Exception:  # of foreign bytes a decoder may raise anything
        return None
    return found and f"a TIFF of {found}, which Pillow does not read; as an array: ffdist.from_tensors"


def check_strips(image: Image.Image, data: object) -> None:
    """image: opened, of these bytes or this file. Of strips or tiles that are missing Pillow would leave the pixels
    black, and say nothing.

    Raises ValueError for a TIFF that has fewer than its size takes, or fewer bytes than can hold its pixels.
    """
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags is None or not isinstance(data, (bytes, Path)):
        return
    width, height = int(tags.get(WIDTH, 0)), int(tags.get(HEIGHT, 0))
    bits = [int(each) for each in tags.get(BITS, (1,))]
    apart = int(tags.get(SAMPLES, len(bits))) if tags.get(PLANAR, 1) == 2 else 1
    tiled = TILES in tags
    across, down = (
        (int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_HEIGHT, 0)))
        if tiled
        else (width, min(int(tags.get(ROWS, height)), height))
    )
    if min(across, down) < 1:
        raise ValueError("it has strips or tiles without pixels")
    found, needed = len(tags.get(TILES if tiled else STRIPS, ())), -(-width // across) * -(-height // down) * apart
    if found < needed:
        what = "tiles" if tiled else "strips"
        raise ValueError(f"it has {found:,} of the {needed:,} {what} for the {width} x {height} pixels that it claims")
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    deep = bits[0] if tags.get(PHOTOMETRIC) == YCBCR else sum(bits)  # its colours may have fewer pixels
    claimed = height if (kind := tags.get(COMPRESSION, 1)) in FAX else width * height * deep
    if 8 * size * (1 if kind in FAX else DENSEST.get(kind, LOOSE)) < claimed:
        raise ValueError(f"{size:,} bytes cannot hold the {width} x {height} pixels that its header claims")
