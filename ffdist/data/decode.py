"""One picture, of any format, mode and size, as uint8 [H, W, C]: decoded alike for training and for prediction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from ffdist.data.depth import (
    FULL,
    SIXTEEN,
    Depth,
    Range,
    eight_bits_of,
    extremes,
    likely_range,
    own_range,
    raw_mode,
    sixteen_bit_colours,
    values_of,
)
from ffdist.data.formats import (
    Encoded,
    check_bytes,
    format_remedy,
    open_picture,
    orientation,
    several_frames,
    with_channels_last,
)
from ffdist.data.png import check_rows
from ffdist.data.tiff import TiffLayout, check_strips, layout_of, unreadable_tiff
from ffdist.data.transparency import has_transparency, laid_over
from ffdist.errors import ConfigError, DataError, setting

N = TypeVar("N", int, float)

Mode = Literal["rgb", "grey", "keep"]
Size = tuple[int, int]

LARGE = 2**24
"""Pixels; more than one picture of more than that is not decoded at a time, whatever the number of threads."""
# a picture of so many pixels takes hundreds of megabytes while it is decoded, in each thread that does so
LARGE_PICTURE_LOCK = Lock()  # held while such a picture is decoded
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture with this EXIF orientation is brought upright."""


@dataclass(frozen=True)
class Decoding:
    """The decoding of pictures of any kind to samples of one kind: kept in a prepared folder's manifest and in a run's
    folder, so that what is predicted is read as what was trained on. Raises ConfigError for settings out of range.
    """

    size: Size | None = None
    """(height, width): a picture is scaled to cover it, and its middle is cut out. None: as it is."""
    mode: Mode = "keep"
    """Channels: "keep" leaves grey pictures grey and makes all others RGB."""
    background: str = "white"
    """What transparent pictures are laid over: a colour's name, or #rrggbb."""
    value_range: Range | None = None
    """The values that stand for black and white in pictures of more than 8 bits. None: those that the file's type says,
    0 and 65535 for 16 bits; other types have none."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError("unknown picture mode", expected=" or ".join(get_args(Mode)), got=self.mode)
        if self.size is not None and min(self.size) < 1:
            raise ConfigError("a picture has at least one pixel", expected="size >= 1", got=self.size)
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except (ValueError, AttributeError):
            opaque = False
        if not opaque:
            expected = "a colour without transparency: a name, or #rrggbb"
            raise ConfigError("unknown background", where=setting("background"), expected=expected, got=self.background)
        limits = (0, 1) if self.value_range is None else tuple(self.value_range)
        if len(limits) != 2 or not -np.inf < limits[0] < limits[1] < np.inf:
            expected = "two numbers, the smaller first"
            raise ConfigError(
                "unusable range of values", where=setting("value_range"), expected=expected, got=self.value_range
            )

    def __str__(self) -> str:
        """One line, for who has to do the same elsewhere."""
        colours = {"rgb": "RGB", "grey": "grey", "keep": "grey or RGB as it is"}[self.mode]
        size = (
            ""
            if self.size is None
            else " scaled to cover {} x {} (height x width) and cut in the middle,".format(*self.size)
        )
        deep = (
            "65535 and 0 as white and black"
            if self.value_range is None
            else "{:g} as black, {:g} as white".format(*self.value_range)
        )
        return (
            f"turned upright by EXIF,{size} bilinear, {colours}; transparency over {self.background};"
            f" more than 8 bits: {deep}"
        )


def read_decoding(values: dict) -> Decoding:
    """Read one from what `asdict` made of it, in a JSON file. Raises TypeError, KeyError or ValueError for anything
    else."""
    size, limits = values.get("size"), values.get("value_range")
    try:
        fields = {
            **values,
            "size": None if size is None else pair_of(size, int),
            "value_range": None if limits is None else pair_of(limits, float),
        }
    except OverflowError as error:
        raise ValueError(error) from error
    return Decoding(**fields)


def pair_of(values: Any, kind: Callable[[Any], N]) -> tuple[N, N]:
    """Two numbers of type `kind`. Raises TypeError, ValueError or OverflowError for what is no pair of numbers."""
    one, other = values
    return kind(one), kind(other)


def check_options(
    size: int | Size | None = None, mode: str = "keep", background: str = "white", value_range: Range | None = None
) -> Decoding:
    """A `Decoding` from settings as users give them: a side for a size. Raises ConfigError for those out of range."""
    pair = (size, size) if isinstance(size, int) else size
    return Decoding(pair, mode, background, value_range)  # pyright: ignore[reportArgumentType]


DEFAULT_DECODING = Decoding()


class Picture(NamedTuple):
    """A decoded picture, and what was seen on the way."""

    pixels: np.ndarray
    """uint8 [H, W, C] with C of 1 (grey) or 3 (RGB)."""
    values: Range | None = None
    """Least and greatest value, where it has more than 8 bits and its file doesn't say their range."""
    limits: Range | None = (0, 255)
    """The values that stood for black and white; None where they are not known, and `pixels` mean nothing."""
    frames: bool = False
    """Whether it has more than the first frame or page, which was taken."""
    transparent: bool = False
    spare: int = 0
    """Channels that were left out, as they are neither colour nor transparency."""
    assumed: bool = False
    """Whether its fourth channel was taken for transparency, though nothing says that it is."""
    changed: bool = False
    """Whether `pixels` are other than what the file holds: of another size, colour, depth or orientation."""


def decode(data: Encoded, where: object, decoding: Decoding = DEFAULT_DECODING) -> np.ndarray:
    """uint8 [H, W, C] with C of 1 (grey) or 3 (RGB).

    Of several frames or pages the first is taken. A picture is turned upright by its EXIF orientation, also one that
    Pillow opened before (whoever turned it by hand takes the mark away, as `ImageOps.exif_transpose` does).
    Raises DataError naming `where` for a picture that cannot be read, or whose values have no known range.
    """
    return pixels_of(read_picture(data, where, decoding), where)


def pixels_of(picture: Picture, where: object) -> np.ndarray:
    """A picture's pixels, uint8 [H, W, C]. Raises DataError where the values of black and white are not known."""
    if picture.limits is None:
        assert picture.values
        raise no_range_error(where, *picture.values)
    return picture.pixels


def no_range_error(where: object, low: float, high: float, count: int = 1) -> DataError:
    """The error for `count` pictures whose values of black and white are not known, and lie in low..high."""
    black, white = likely_range(low, high)
    held = f"{low:g} to {high:g}" + (f" in {count:,} such pictures" if count > 1 else "")
    return DataError(
        "which values are black and white?",
        where=where,
        expected="8 or 16 bits a channel, or a range",
        got=f"32-bit, signed or floating-point values: {held}",
        remedy=f"name black and white, e.g. {setting('value_range', f'{black:g} {white:g}')}",
    )


def read_picture(data: Encoded, where: object, decoding: Decoding = DEFAULT_DECODING) -> Picture:
    """Decode one picture, with what was seen on the way.

    Raises DataError naming `where` for a picture that cannot be read, whatever is wrong with it.
    """
    try:
        if isinstance(data, np.ndarray) and is_as_wanted(array := with_channels_last(data), decoding):
            return Picture(array)
        held = PixelInfo.of(data) if isinstance(data, Image.Image) else None  # a copy no longer has what its file says
        with open_picture(data) as image, LARGE_PICTURE_LOCK if image.width * image.height > LARGE else nullcontext():
            check_bytes(image, data)
            check_strips(image, data)
            return _read(image, decoding, data, held or PixelInfo.of(image))
    except MemoryError as error:
        raise _broken_error(where, "there is no memory for it") from error
    except Exception as error:  # of foreign bytes a decoder may raise anything
        strange = isinstance(error, UnidentifiedImageError)
        unknown = (
            unreadable_tiff(data) or (format_remedy(data) if isinstance(data, Path) else None) if strange else None
        )
        raise _broken_error(where, unknown or reason(error)) from error


def is_as_wanted(array: np.ndarray, decoding: Decoding) -> bool:
    """True if uint8 [H, W, C] are decoded pixels already."""
    modes = {1: ("grey", "keep"), 3: ("rgb", "keep")}.get(array.shape[2], ())
    return decoding.mode in modes and decoding.size in (None, array.shape[:2])


def _broken_error(where: object, got: str) -> DataError:
    return DataError("a picture cannot be read", where=where, got=got, remedy="replace or remove it")


def reason(error: Exception) -> str:
    """The reason that a picture cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "no known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    says = " ".join(str(error).split())
    known = isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError))
    return says if known and says else f"{type(error).__name__}: {says}"


class PixelInfo(NamedTuple):
    """Facts on an opened picture's pixels, before they are read."""

    layout: TiffLayout | None
    raw: str
    own: Depth
    frames: bool

    @classmethod
    def of(cls, image: Image.Image) -> PixelInfo:
        layout = layout_of(image)
        frames = several_frames(image) or bool(layout and layout.planes > 1)
        return cls(layout, raw_mode(image), own_range(image, layout), frames)


def _read(image: Image.Image, decoding: Decoding, data: Encoded, seen: PixelInfo) -> Picture:
    if not all(image.size):
        raise ValueError("it has no pixels")
    layout, raw, own, frames = seen
    spare = spare_channels(layout, decoding)
    if decoding.size is not None:
        height, width = decoding.size if orientation(image) < 5 else decoding.size[::-1]
        image.draft(None, (2 * width, 2 * height))  # a JPEG can be read at a half, a quarter, an eighth
    image.load()
    check_rows(image, data)
    turn = TURNED.get(orientation(image))  # after loading: Pillow turns a TIFF itself
    values, limits = None, (0, 255)
    if own.deep:
        deep = values_of(image, own)
        values, limits = extremes(deep), own.fixed or decoding.value_range or own.usual
        holes = image.info.get("transparency")
        image = Image.fromarray(eight_bits_of(deep, limits or (0, 1), inverted=own.inverted))
        if isinstance(holes, int):
            image.putalpha(Image.fromarray((deep != holes).astype(np.uint8) * np.uint8(255)))
        del deep
    elif ";16" in raw and image.mode in ("RGB", "RGBA", "CMYK"):
        again = None if isinstance(data, Image.Image) or (layout and layout.apart) else data
        image, values, limits = deep_colours(image, decoding, again, raw)
    if raw.startswith("LA;16"):  # which Pillow reads as RGBA
        image = image.convert("LA")
    if spare and image.mode in ("LA", "RGBA") and layout and not layout.clear:  # Pillow's guess, or ours
        image = image.convert(image.mode[:-1])
    transparent, made = has_transparency(image), on_background(image, decoding)
    before = image.mode, image.size, own.deep or ";16" in raw
    if made is not image:
        image.close()  # so that a large picture is not held twice
    if turn is not None:
        made = made.transpose(turn)
    if decoding.size is not None:
        height, width = decoding.size
        made = ImageOps.fit(made, (width, height), Image.Resampling.BILINEAR)
    pixels = np.atleast_3d(np.asarray(made))
    assumed = isinstance(data, np.ndarray) and transparent
    changed = turn is not None or before != (made.mode, made.size, False) or transparent
    return Picture(pixels, None if own.fixed else values, limits, frames, transparent, spare, assumed, changed)


def deep_colours(
    image: Image.Image, decoding: Decoding, data: Encoded | None, raw: str
) -> tuple[Image.Image, Range, Range]:
    """A picture with 16 bits a colour: its pixels, its extremes, and what stood for black and white.

    data: what their lower bits can be read from; None: nothing.
    Raises ValueError where a range was given and their lower bits cannot be read.
    """
    upper, limits = np.asarray(image), decoding.value_range or SIXTEEN
    colours = 4 if image.mode == "CMYK" else 3
    low, high = extremes(upper[..., :colours])
    if decoding.value_range is None and high >= FULL >> 8:  # the usual case needs no lower bits
        return image, (int(low) << 8, int(high) << 8 | 255), limits
    values = None
    if data is not None:
        with open_picture(data) as again:
            values = sixteen_bit_colours(upper, again, raw)
    if values is None:
        if decoding.value_range is not None:
            raise ValueError(f"its lower bits cannot be read (laid out as {raw}); save it with 8 bits")
        return image, (int(low) << 8, int(high) << 8 | 255), limits
    found = extremes(values[..., :colours])
    if decoding.value_range is not None:
        scaled = np.concatenate([eight_bits_of(values[..., :colours], limits), upper[..., colours:]], 2)
        image = Image.fromarray(scaled, "CMYK") if image.mode == "CMYK" else Image.fromarray(scaled)
    return image, found, limits


def spare_channels(layout: TiffLayout | None, decoding: Decoding) -> int:
    """Count the channels that are neither colour nor transparency. Raises ValueError for some, unless `decoding` says
    which channels are wanted."""
    if layout and layout.misread:
        raise ValueError(f"{layout.misread} in planes of their own cannot be read; save it with interleaved channels")
    if layout is None or not layout.spare:
        return 0
    if decoding.mode != "keep":
        return layout.spare
    mode, kept = ("grey", "the first alone") if layout.channels - layout.spare < 3 else ("rgb", "the colours alone")
    what = "is neither colour nor known to be transparency" if layout.spare == 1 else "are no colours"
    raise ValueError(
        f"{layout.spare} of its {layout.channels} channels {what}: {setting('mode', mode)} takes {kept}; "
        "all of them go as an array, by ffdist.from_tensors"
    )


def on_background(image: Image.Image, decoding: Decoding) -> Image.Image:
    """A picture of 8 bits in mode L or RGB, on its background."""
    grey = decoding.mode == "grey" or (decoding.mode == "keep" and image.mode in ("1", "L", "LA", "La"))
    mode = "L" if grey else "RGB"
    if has_transparency(image):
        return laid_over(image, decoding.background, mode)
    if image.mode == "LAB":  # Pillow knows no direct way to grey
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)
