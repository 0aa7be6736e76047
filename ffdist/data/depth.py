"""Pixels of more than 8 bits: what they range over, and how they become 8."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ffdist.data.tiff import TiffLayout

Range = tuple[float, float]
"""The values that stand for black and white."""

SIXTEEN: Range = (0, 65535)
SENSOR_BITS = (10, 12, 14)
"""What is written into files of 16 bits as well."""
FULL = 2 ** max(SENSOR_BITS)
"""A set that reaches this value has 16 bits; one that doesn't may have less."""
CHUNK = 2**20
"""Pixels scaled at once: what bounds the memory of a large picture."""


class Depth(NamedTuple):
    """The range and type of a file's values, as it says."""

    deep: bool
    """Whether they have more than 8 bits."""
    usual: Range | None = None
    """What its type can hold, where that is what it plainly means."""
    fixed: Range | None = None
    """What the file itself says they range over, whatever users say."""
    inverted: bool = False
    """Whether the least value is white."""
    held_as: str | None = None
    """NumPy's type of the values, where Pillow has them as another one of the same size."""


def own_range(image: Image.Image, layout: TiffLayout | None = None) -> Depth:
    """The depth of an opened picture; layout: of a TIFF."""
    if layout and layout.kind == "i" and image.mode == "L":
        return Depth(True, held_as="int8", inverted=layout.inverted)
    inverted = layout is not None and layout.inverted
    if image.mode == "F":
        return Depth(True, inverted=inverted)
    if not image.mode.startswith("I"):
        return Depth(False)
    if image.format == "PPM" and not plain_sixteen(image):
        return Depth(True, SIXTEEN, SIXTEEN)  # Pillow scales by the greatest value, which the file names
    if layout and layout.bits == 12:
        return Depth(True, (0, 4095), inverted=inverted)
    if layout and (layout.kind, layout.bits) == ("u", 32):
        return Depth(True, held_as="uint32", inverted=inverted)
    usual = SIXTEEN if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else None
    return Depth(True, usual, inverted=inverted)


def raw_mode(image: Image.Image) -> str:
    """The layout of the file's pixels, by Pillow's name, of an opened picture that isn't read yet; "" if not known."""
    tiles = getattr(image, "tile", ())
    args = tiles[0][3] if tiles else ""
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else ""


def sixteen_bit_colours(upper: np.ndarray, again: Image.Image, raw: str) -> np.ndarray | None:
    """uint16 [H, W, C] of colours of which Pillow reads the upper 8 bits alone; None for a layout that has no twin.

    upper: uint8 [H, W, C], as read; again: the same picture, opened and not read yet. It is read as if its bytes lay
    the other way round, which gives the lower 8 bits.
    """
    native = {"N": "L" if sys.byteorder == "little" else "B"}
    layout, _, order = raw.partition(";16")
    if layout not in ("RGB", "RGBA", "RGBX", "CMYK"):
        return None
    twin = f"{layout};16{'B' if native.get(order, order) == 'L' else 'L'}"
    file: Any = again
    file.tile = [laid_out(tile, twin) for tile in file.tile]
    file.load()
    values = upper.astype(np.uint16)
    values <<= 8
    values |= np.asarray(again)
    return values


def laid_out(tile: Any, layout: str) -> Any:
    """A tile of a picture's file that is read in another layout; Pillow before 11 has plain tuples for them."""
    args = (layout, *tile[3][1:]) if isinstance(tile[3], tuple) else layout
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def plain_sixteen(image: Image.Image) -> bool:
    """True if a PGM's greatest value is 65535, so that nothing is scaled."""
    tiles = getattr(image, "tile", ())
    return not tiles or tiles[0][0] == "raw" or tiles[0][3][-1] == 65535


def values_of(image: Image.Image, own: Depth) -> np.ndarray:
    """[H, W], whole numbers or floats. Raises ValueError for what is not a number."""
    values = np.asarray(image)
    if own.held_as is not None:
        values = values.view(own.held_as)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("it holds pixels that are no numbers (NaN or infinite)")
    return values


def extremes(values: np.ndarray) -> Range:
    """The least and the greatest value."""
    return values.min().item(), values.max().item()


def likely_range(low: float, high: float) -> Range:
    """The narrowest usual range that holds values from `low` to `high`: of sensors' bits, or of 0..1 and -1..1."""
    usual = [(0, 2**bits - 1) for bits in (8, *SENSOR_BITS, 16)]
    if high <= 1:
        usual = [(0, 1), (-1, 1)]
    return next((usual_range for usual_range in usual if usual_range[0] <= low and high <= usual_range[1]), (low, high))


def eight_bits_of(values: np.ndarray, limits: Range, *, inverted: bool = False) -> np.ndarray:
    """uint8 of the same shape: `limits` become 0 and 255 (or 255 and 0), what lies beyond them is cut off.

    Whole numbers fall into 256 equal bins, so that 16 bits lose their lower 8; floats, and fewer than 256 different
    whole numbers, are rounded.
    """
    flat, low, high = values.reshape(-1), *limits
    out = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK].astype(np.float64)
        if values.dtype.kind == "f" or high - low < 255:
            part = np.rint((part - low) * (255 / (high - low)))
        else:
            part = np.floor((part - low) * 256 / (high - low + 1))
        out[start : start + CHUNK] = 255 - part.clip(0, 255) if inverted else part.clip(0, 255)
    return out.reshape(values.shape)
