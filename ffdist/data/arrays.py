"""Arrays of any library and type as NumPy's own, and as samples that a network can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffdist.data.depth import Range, eight_bits_of, extremes, likely_range
from ffdist.errors import DataError, setting
from ffdist.notes import note

CHUNK_BYTES = 2**24
"""What is looked at at once of an array that may lie in a file."""


def as_array(values: Any, what: str, where: object) -> np.ndarray:
    """A tensor, array, frame, or list of numbers, texts or arrays, in the machine's byte order.

    Raises DataError for lists of unlike things, sparse or quantized tensors, masked values, and what else is no array.
    """
    if isinstance(values, Tensor):
        return array_of_tensor(values, what, where)
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        raise DataError(
            f"{what} are masked",
            where=where,
            expected="an array without masked values",
            remedy="leave those rows out" + (", or x.filled(0)" if what == "samples" else ""),
        )
    try:
        if isinstance(values, (list, tuple)) and any(isinstance(value, Tensor) for value in values):
            array = np.stack([as_array(value, what, where) for value in values])
        else:
            array = np.asarray(values)
        if array.dtype.kind == "O" and array.ndim and all(hasattr(value, "__array__") for value in array.flat):
            array = np.stack([as_array(value, what, where) for value in array])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} are no tensor",
            where=where,
            expected="a tensor or array, all of one shape",
            got=getattr(values, "dtype", error),
            remedy="bring all to one shape",
        ) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def array_of_tensor(x: Tensor, what: str, where: object) -> np.ndarray:
    """A tensor as an array: on the CPU, detached; bfloat16 and smaller floats as float32.

    Raises DataError for sparse, quantized and nested tensors, with the call that converts them, and for meta tensors.
    """
    remedies = {"sparse": "x.to_dense()", "quantized": "x.dequantize()", "nested": "x.to_padded_tensor(0)"}
    kind = "quantized" if x.is_quantized else "nested" if x.is_nested else "sparse"
    if x.layout != torch.strided or x.is_quantized or x.is_nested or x.is_meta:
        raise DataError(
            f"{what} are no plain tensor",
            where=where,
            expected="a dense tensor of numbers",
            got="a tensor without values (meta)" if x.is_meta else f"a {kind} tensor",
            remedy=None if x.is_meta else remedies[kind],
        )
    x = x.detach().cpu().resolve_conj().resolve_neg()
    plain = x.dtype in (torch.float16, torch.float32, torch.float64) or not x.is_floating_point()
    return (x if plain else x.float()).numpy()


def as_samples(
    values: Any, where: object, channels_last: bool | None = None, value_range: Range | None = None
) -> np.ndarray:
    """Pictures uint8 [N, H, W, C], or float32 [N, *shape].

    values: pictures [N, H, W] or [N, C, H, W] of whole numbers in 0..255 (True is 255), or finite floats [N, ...].
    channels_last: whether they are [N, H, W, C]; None: not known, and samples that look so are refused. value_range: as
    in `as_bytes`.
    Raises DataError for anything else.
    """
    x = as_array(values, "samples", where)
    if x.ndim and not len(x):
        raise DataError(
            "there is no sample", where=where, expected="one sample or more", got=f"{x.dtype} {list(x.shape)}"
        )
    as_floats = "x.float()" if isinstance(values, Tensor) else 'numpy.asarray(x, "float32")'
    if x.dtype.kind not in "fbiu" or x.ndim < 2:
        of_objects = "one type for all columns: x.astype('float32'), which makes True 1"
        if not x.ndim:
            of_objects = "x.toarray() of a sparse matrix; numpy.stack(list(x)) of a generator"
        remedies = {"c": "numpy.stack([x.real, x.imag], 1)", "O": of_objects}
        remedies |= dict.fromkeys("fbiu", "x.reshape(-1, 1)")
        raise other_samples_error(x, where, remedies.get(x.dtype.kind))
    if x.dtype.kind == "f":
        return as_floats_checked(x, where, channels_last)
    shape, last = x.shape[1:], bool(channels_last)
    if channels_last is None and x.ndim == 4 and shape[0] > FEW >= shape[2]:
        raise other_samples_error(x, where, LAST)
    if x.ndim not in (3, 4) or (x.ndim == 4 and shape[2 if last else 0] > FEW):
        flat = x.dtype.kind in "iu" and x.ndim == 2
        measured = f"floats: {as_floats}, and from_tensors(..., normalize=True)"
        raise other_samples_error(x, where, WHOLE_NUMBERS.format(as_floats) if flat else measured)
    if x.ndim == 4 and not last:
        x = x.transpose(0, 2, 3, 1)
    pictures = f"{as_floats}[:, None]" if x.ndim == 3 else as_floats
    remedy = f"floats: {pictures}, and from_tensors(..., normalize=True); or {LIMITS}"
    return np.ascontiguousarray(as_bytes(x if x.ndim == 4 else x[..., None], where, remedy, value_range))


WHOLE_NUMBERS = (
    "measured values: {0}, and normalize=True; "
    "token ids: {0}, without normalize, and x.long() in the block, before its nn.Embedding"
)
LIMITS = "name black and white: value_range=({black:g}, {white:g})"
"""A remedy for whole numbers beyond 0..255, with the range that they seem to have."""
FEW = 4
"""What has no more than so many parts may be channels."""
FIRST = "from_tensors(x, y, channels_last=False), from_dataset and from_arrow likewise"
LAST = "from_tensors(x, y, channels_last=True), from_dataset and from_arrow likewise; False where they are not"


def other_samples_error(x: np.ndarray, where: object, remedy: str | None) -> DataError:
    """The error for samples of a type or shape that no network takes."""
    return DataError(
        "samples are uint8 pictures or floating-point tensors",
        where=where,
        expected="uint8 [N, H, W] or [N, C, H, W] with C <= 4, or float [N, ...]",
        got=f"{x.dtype} {list(x.shape)}",
        remedy=remedy,
    )


def as_bytes(
    array: np.ndarray, where: object, remedy: str | None = None, value_range: Range | None = None
) -> np.ndarray:
    """Whole numbers in 0..255 as uint8, truth as 0 and 255, and floats as they are.

    remedy: may have {black} and {white}, of a range that holds them. value_range: black and white of whole numbers of
    more than 8 bits; None: 0 and 255.
    Raises DataError for numbers beyond the range.
    """
    if array.dtype.kind == "b":
        return array * np.uint8(255)
    if array.dtype == np.uint8 and value_range is not None and tuple(value_range) != (0, 255):
        raise DataError(
            "8 bits have black and white of their own",
            where=where,
            expected="more than 8 bits, where a range is given",
            got=f"uint8, and {setting('value_range', '{:g} {:g}'.format(*value_range))}",
            remedy="x.astype('int16'); or leave the range out, and 0 and 255 are black and white",
        )
    if array.dtype == np.uint8 or array.dtype.kind not in "iu" or not array.size:
        return array.astype(np.uint8) if array.dtype.kind in "iu" else array
    black, white = value_range or (0, 255)
    low, high = extremes(array)
    if low < black or high > white:
        likely = likely_range(low, high)
        raise DataError(
            "a pixel is out of range",
            where=where,
            expected=f"{black:g}..{white:g}",
            got=f"{low}..{high}",
            remedy=remedy and remedy.format(black=likely[0], white=likely[1]),
        )
    return array.astype(np.uint8) if value_range is None else eight_bits_of(array, value_range)


def is_picture(array: np.ndarray) -> bool:
    """True if it can be one: uint8 [H, W], [H, W, C] or [C, H, W], of 1 to 4 channels."""
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and min(array.shape[::2]) <= FEW))


def as_picture(array: np.ndarray, where: object, channels_last: bool | None = None) -> np.ndarray:
    """uint8 [H, W, C], of 1 to 4 channels that are taken as they are; channels_last: None: where there are so few.

    Raises DataError for what is no picture, and where both ends could be channels.
    """
    if not is_picture(array) or not array.size:
        raise DataError(
            f"{array.dtype} {list(array.shape)} is not a picture",
            where=where,
            expected="uint8 [H, W], [H, W, C] or [C, H, W] of 1 to 4 channels",
            got=f"{array.dtype} {list(array.shape)}",
            remedy="other axes and numbers as floats: x.float(), x.astype('float32')",
        )
    if array.ndim == 2:
        return array[..., None]
    if channels_last is None and max(array.shape[::2]) <= FEW and array.shape[0] != 1:
        raise unknown_axes_error(array.shape, where, "[C, H, W] or [H, W, C]", LAST)
    last = array.shape[2] <= FEW < array.shape[0] if channels_last is None else channels_last
    return array if last else array.transpose(1, 2, 0)


def as_floats_checked(x: np.ndarray, where: object, channels_last: bool | None) -> np.ndarray:
    """float32 [N, *shape] with channels first. Raises DataError for NaN, infinity, and for what looks channels last."""
    check_channels(x.shape[1:], where, channels_last)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32, copy=False)
    first = 0
    for part in chunks(x):
        finite = np.isfinite(part)
        if not finite.all():
            row = int(np.flatnonzero(~finite.reshape(len(part), -1).all(1))[0])
            raise DataError(
                "a sample is not finite",
                where=f"{where}, row {first + row}",
                expected="finite float32",
                got=part[row][~finite[row]][0],
                remedy="numpy.nan_to_num(x), or leave such rows out",
            )
        first += len(part)
    return np.ascontiguousarray(np.moveaxis(x, -1, 1) if channels_last else x)


def check_channels(shape: tuple[int, ...], where: object, channels_last: bool | None) -> None:
    """shape: of one sample. Raises DataError for floats that look like [H, W, C], unless `channels_last` says what they
    are."""
    if channels_last and len(shape) < 2:
        raise DataError(
            "only samples with channels have them last",
            where=where,
            expected="[N, H, W, C]",
            got=[*shape],
            remedy="leave channels_last out",
        )
    if channels_last is not None:
        return
    if looks_channels_last(shape):
        axes = "H, W" if len(shape) == 3 else "D, H, W"
        raise unknown_axes_error(shape, where, f"[C, {axes}] or [{axes}, C]", LAST)
    if len(shape) == 3 and {shape[0], shape[2]} <= {3, 4} and shape[1] > FEW:
        raise unknown_axes_error(shape, where, "[C, H, W] or [H, W, C]", LAST)
    if len(shape) == 4 and shape[3] <= FEW < min(shape[1:3]):
        raise unknown_axes_error(shape, where, "[C, D, H, W] or [T, H, W, C]", LAST)
    if len(shape) == 3 and len({*shape}) == 1 and shape[0] > FEW:
        raise unknown_axes_error(
            shape, where, "[C, H, W] or volumes [D, H, W]", f"x[:, None] of volumes; of channels, {FIRST}"
        )
    if len(shape) == 4 and shape[1] <= FEW < min(shape[2:]):
        raise unknown_axes_error(
            shape,
            where,
            "[C, D, H, W] or [T, C, H, W]",
            f"x.transpose(1, 2) of frames [N, T, C, H, W]; of channels first, {FIRST}",
        )


def unknown_axes_error(shape: tuple[int, ...], where: object, which: str, remedy: str) -> DataError:
    """The error for samples whose channels may be first or last."""
    expected = "an answer: channels_last=False where channels are first, True where they are last"
    return DataError(f"are these samples {which}?", where=where, expected=expected, got=shape, remedy=remedy)


def note_axes(samples: np.ndarray, where: object, channels_last: bool | None) -> None:
    """Note which axis is taken for the channels, where it was not given and could be another.

    samples: uint8 [N, H, W, C], or float32 [N, *shape].
    """
    if samples.dtype == np.uint8:
        channels = samples.shape[-1]
        if channels in (2, 4):
            note(f"{where}: pictures of {channels} channels are taken as they are; none of these is transparency")
        return
    channels, *sides = samples.shape[1:]
    if channels_last is None and len(sides) > 1 and channels > FEW:
        each = " x ".join(map(str, sides))
        note(f"{where}: samples {samples.shape[1:]} are taken for {channels} channels of {each}; say so by {FIRST}")


def looks_channels_last(shape: tuple[int, ...]) -> bool:
    """True if (a, b, c), or (a, b, c, d), may be of a picture or volume with its channels last: few of them, or fewer
    than it is high and wide, or any number after a square."""
    if len(shape) not in (3, 4) or shape[0] <= 4:
        return False
    *sides, last = shape
    square = len(sides) == 2 and sides[0] == sides[1] != last
    return (last <= 4 and (len(sides) == 2 or min(sides) > last)) or last < min(sides) or square


def chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in parts of about `CHUNK_BYTES`: what bounds the memory where an array lies in a file."""
    rows = max(1, CHUNK_BYTES // max(1, x[:1].nbytes))
    return (x[start : start + rows] for start in range(0, len(x), rows))


def float_moments(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of float32 samples: a feature of [N, F], a channel of [N, C, H, W], one pair for all of others.

    What never changes has std 1, so that it can be divided by.
    """
    axis = 1 if x.ndim in (2, 4) else None
    groups = x.shape[1] if axis else 1

    def grouped(part: np.ndarray) -> np.ndarray:
        return (np.moveaxis(part, 1, 0) if axis else part).reshape(groups, -1).astype(np.float64)

    count = x.size // groups
    mean = sum((grouped(part).sum(1) for part in chunks(x)), np.zeros(groups)) / count
    squares = sum((np.square(grouped(part) - mean[:, None]).sum(1) for part in chunks(x)), np.zeros(groups))
    std = np.sqrt(squares / count)
    return tuple(mean.tolist()), tuple(np.where(std > 1e-12 * np.abs(mean), std, 1.0).tolist())
