"""Formats of pictures, and how their files are opened."""

from __future__ import annotations

import importlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ffdist.data.tiff import teach_grey_with_another

Encoded = Path | bytes | np.ndarray | Image.Image
"""A file, its bytes, uint8 [H, W] or [H, W, C], or an opened picture."""

NO_PICTURES = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF")
"""What Pillow knows by name but does not decode itself; EPS is a program, which another program would have to run; of
FITS it takes signs, scales and further axes for nothing."""
PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": None, "pillow_jxl": None}
"""Packages that teach Pillow more formats, used where they are installed."""
TEACHERS = {
    "HEIC": ("pillow-heif", (".heic", ".heics", ".heif", ".heifs", ".hif"), (b"ftypheic", b"ftypheix", b"ftypmif1")),
    "AVIF": ("pillow-avif-plugin", (".avif", ".avifs"), (b"ftypavif", b"ftypavis")),
    "JPEG XL": ("pillow-jxl-plugin", (".jxl",), (b"JXL \r\n\x87\n",)),
}
"""The package on PyPI for each such format, its endings, and what stands at byte 4 of its files."""
UNMISTAKABLE = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "AVIF", "HEIF", "JPEG2000", "JXL", "PPM", "PSD", "QOI")
"""Formats that are recognised by their first bytes, whatever a file is called."""


@cache
def formats() -> tuple[str, ...]:
    """The formats that can be read here, by Pillow's names."""
    Image.init()
    teach_grey_with_another()
    for package, register in PLUGINS.items():
        with suppress(ImportError):
            module = importlib.import_module(package)
            if register:
                getattr(module, register)()
    known = [name for name in Image.OPEN if name not in NO_PICTURES]
    return tuple(sorted(known, key=lambda name: name not in UNMISTAKABLE))  # the others try to read before they refuse


@cache
def endings() -> frozenset[str]:
    """Endings of file names, in small letters: ".png", ".jpg", ..."""
    readable = set(formats())
    names = Image.registered_extensions().items()
    return frozenset(ending for ending, name in names if name in readable or name == "MPO")  # MPO is read as JPEG


def is_picture(path: Path) -> bool:
    """True if a file is one that can be read as a picture: by its ending in either case, or where it has none, or one
    that says nothing ("subject01.happy"), by its first bytes. It may still turn out to be broken."""
    ending = path.suffix.lower()
    if ending in endings():
        return True
    known = set(UNMISTAKABLE) | (set() if ending else {"TIFF"})  # the raw files of cameras are TIFF with a thumbnail
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with Image.open(path, formats=[name for name in formats() if name in known]):
            return True
    except Exception:  # of foreign bytes a decoder may raise anything
        return False


def format_remedy(path: Path) -> str | None:
    """The remedy that would make a file readable that is not so here, by its ending or its first bytes; None where
    nothing is known of it."""
    ending = path.suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(16) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        start = b""
    return next(
        (
            f"{name} needs a package: pip install {package}"
            for name, (package, known, starts) in TEACHERS.items()
            if ending in known or start[4:].startswith(starts)
        ),
        None,
    )


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """A context without Pillow's warnings of damaged notes, palettes, and pictures of half its limit, for all
    threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def open_picture(data: Encoded) -> Image.Image:
    """Open a picture with Pillow; its pixels are not read yet.

    Raises OSError for a path that is no regular file, and whatever Pillow raises for what it cannot read.
    """
    if isinstance(data, np.ndarray):
        array = with_channels_last(data)
        return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    if isinstance(data, Image.Image):
        return data.copy()
    if isinstance(data, bytes):
        if not data:
            raise ValueError("it is missing: null, or no bytes")
        return Image.open(io.BytesIO(data), formats=formats())
    regular(data)
    return Image.open(data, formats=formats())


def check_bytes(image: Image.Image, data: Encoded) -> None:
    """Raises ValueError for a JPEG that is far too short for the size in its header, the rest of which would be grey:
    each block of 8 x 8 pixels takes a bit at least."""
    if image.format not in ("JPEG", "MPO") or not isinstance(data, (bytes, Path)):
        return
    size = len(data) if isinstance(data, bytes) else os.stat(data).st_size
    if 8 * size < -(-image.width // 8) * -(-image.height // 8):
        raise ValueError(f"{size:,} bytes cannot hold the {image.width} x {image.height} pixels that its header claims")


def regular(path: Path) -> None:
    """Raises OSError for what is no regular file: reading from a pipe or a device would wait, or never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe'}, not a file")


def with_channels_last(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C], C of 1, 3 or 4, of [H, W], [H, W, C] or [C, H, W]; where both ends could be channels, the last
    is. Raises ValueError for what is no picture."""
    channels = (1, 3, 4)
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in channels)
    if array.dtype != np.uint8 or not array.size or not fits:
        raise ValueError(f"{array.dtype} {list(array.shape)} is not a picture, uint8 [H, W] or [H, W, 1|3|4] is")
    return array if array.ndim == 3 else array[..., None]


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 (upright) to 8; 1 where there is none, or none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged notes beside a picture do not make it unreadable
        return 1


def several_frames(image: Image.Image) -> bool:
    """True if it is an animation, or has more than one page."""
    try:
        return image.format != "PSD" and bool(getattr(image, "is_animated", False))  # a PSD's layers are one picture
    except Exception:  # a damaged end does not make the first frame unreadable
        return False
