"""One picture, of any format, mode and size, as uint8 [H, W, C]."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ffdist.errors import ConfigError, DataError

Mode = Literal["rgb", "grey", "keep"]
Size = tuple[int, int]
Encoded = Path | bytes | np.ndarray | Image.Image
"""A file, its bytes, uint8 [H, W] or [H, W, C], or an opened picture."""


@dataclass(frozen=True)
class Decoding:
    """How pictures of any kind become samples of one kind: kept in a prepared folder's manifest and in a run's
    directory, so that what is predicted is read as what was trained on."""

    size: Size | None = None
    """(height, width) that pictures are scaled and cut to; None where they had one size."""
    mode: Mode = "keep"


def read_decoding(values: dict) -> Decoding:
    """What `asdict` made of one, from a JSON file. Raises TypeError or ValueError for anything else."""
    size = values.get("size")
    return Decoding(**(values | {"size": None if size is None else (int(size[0]), int(size[1]))}))


BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a picture that it cannot read."""


def decode(data: Encoded, where: object, size: Size | None = None, mode: Mode = "keep") -> np.ndarray:
    """uint8 [H, W, C] with C of 1 (grey) or 3 (RGB).

    size: height, width; the picture is scaled to cover it and its middle is cut out. mode: "keep" leaves grey pictures
    grey and makes all others RGB; 16 bits become 8; transparency is dropped.
    Raises DataError naming `where` for a picture that cannot be read.
    """
    try:
        with opened(data) as image:
            if size is None:
                return np.atleast_3d(np.asarray(eight_bits(image, mode)))
            height, width = size
            image.draft(None, (2 * width, 2 * height))  # a JPEG can be read at a half, a quarter, an eighth
            fitted = ImageOps.fit(eight_bits(image, mode), (width, height), Image.Resampling.BILINEAR)
            return np.atleast_3d(np.asarray(fitted))
    except BROKEN as error:
        got = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError("a picture cannot be read", where=where, got=got, remedy="replace or remove it") from error


def opened(data: Encoded) -> Image.Image:
    if isinstance(data, np.ndarray):
        return from_array(data)
    if isinstance(data, Image.Image):
        return data.copy()
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)


def from_array(array: np.ndarray) -> Image.Image:
    """[H, W], [H, W, C] or [C, H, W]; where both ends could be channels, the last is."""
    channels = (1, 3, 4)
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in channels)):
        raise ValueError(f"{array.dtype} {list(array.shape)} is not a picture, uint8 [H, W] or [H, W, 1|3|4] is")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else np.ascontiguousarray(array))


def eight_bits(image: Image.Image, mode: Mode) -> Image.Image:
    """The picture in mode L or RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would clip 16 bits, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    grey = mode == "grey" or (mode == "keep" and image.mode in ("1", "L", "LA", "La"))
    return image.convert("L" if grey else "RGB")


def check_options(size: int | Size | None, mode: str) -> tuple[Size | None, Mode]:
    """(height, width) and mode as `decode` takes them; raises ConfigError for others."""
    for known in get_args(Mode):
        if mode == known:
            break
    else:
        raise ConfigError("unknown picture mode", expected=" or ".join(get_args(Mode)), got=mode)
    pair = (size, size) if isinstance(size, int) else size
    if pair is not None and min(pair) < 1:
        raise ConfigError("a picture has at least one pixel", expected="size >= 1", got=size)
    return pair, known
