"""Data sets held in memory: from tensors, and what every other way into memory shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ffdist.data.arrays import as_samples, float_moments, note_axes
from ffdist.data.classes import as_classes, encode_labels
from ffdist.data.decode import Decoding
from ffdist.data.depth import Range
from ffdist.data.duplicates import note_duplicates
from ffdist.data.held_out import grouped, is_share, with_shares
from ffdist.data.images import ArraySplit, Images, Split, moments
from ffdist.data.items import form, unlike_error
from ffdist.data.items_split import ItemsSplit
from ffdist.data.labelled import LabelledSplit
from ffdist.data.labels import labels_of
from ffdist.data.reading import DEFAULT_READING, Reading
from ffdist.errors import DataError

Pair = tuple[Tensor | np.ndarray, Tensor | np.ndarray]


Shared = Pair | float | None
"""A split of its own, or the share of the training samples that becomes one."""


def from_tensors(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    test: Shared = None,
    validation: Shared = None,
    groups: Any = None,
    seed: int = 0,
    classes: Any = None,
    channels_last: bool | None = None,
    normalize: bool = False,
    value_range: Range | None = None,
    name: str = "tensors",
) -> Images:
    """A data set of tensors, arrays, or lists of them, or of a list of Pillow's pictures.

    x: pictures [N, H, W] or [N, C, H, W] of whole numbers in 0..255, normalised by their own mean and std; or floating
        point [N, *shape], left as they are unless `normalize`.
    y: [N], whole numbers in 0..K-1, or names. test, validation: such pairs, of the same shape; or a share of the
        samples, 0.2, drawn by class and by `seed`. groups: [N], whose sample each is: no group is on two sides then.
    classes: K names; default: the names that occur, sorted, or the numbers up to the largest label. K whole numbers
        are the labels themselves, in the order of the classes.
    channels_last: whether x is [N, H, W, C]. None: not known: x that looks so, or like volumes or frames, is refused.
    normalize: scale floats by the training split's mean and std: of each feature of [N, F], of each channel of
        [N, C, H, W], of all for other shapes. The network keeps them, so that what it predicts is scaled alike.
    value_range: black and white in pictures of more than 8 bits, of whole numbers (uint16, int64) or Pillow's; None: 0
        and 255, or what Pillow's mode says. Floats have none.
    Raises DataError for anything else.
    """
    reading = Reading(channels_last=channels_last, value_range=value_range)
    pairs = {"train": (x, y), "test": test, "validation": validation}
    splits = {
        split: labelled_pair(pair[0], pair[1], f"data set {name}, {split}", reading)
        for split, pair in pairs.items()
        if pair is not None and not is_share(pair)
    }
    splits["train"] = grouped(splits["train"], groups, f"data set {name}")
    splits = with_shares(splits, test, validation, seed)
    return assembled(name, splits, classes, normalize=normalize, channels_last=channels_last)


def labelled_pair(x: Any, y: Any, where: str, reading: Reading = DEFAULT_READING) -> LabelledSplit:
    """One split from x and y as `from_tensors` takes them. Raises DataError naming `where` for anything else."""
    pictures = isinstance(x, (list, tuple)) and any(isinstance(value, Image.Image) for value in x)
    if pictures:
        samples = stacked_pictures(x, where, reading)
    else:
        samples = as_samples(x, where, reading.channels_last, reading.value_range)
    return LabelledSplit(samples, labels_of(y, where, len(samples)), Decoding(value_range=reading.value_range))


def stacked_pictures(pictures: Sequence[Any], where: str, reading: Reading) -> np.ndarray:
    """uint8 [N, H, W, C] of Pillow's pictures, whose numbers alone may be those of a palette."""
    reader = reading.reader()
    samples = stacked(
        (reader.read(picture, f"{where}, row {row}") for row, picture in enumerate(pictures)), len(pictures), where
    )
    reader.finish(where)
    return samples


def assembled(
    name: str,
    splits: Mapping[str, LabelledSplit],
    classes: Any = None,
    *,
    renumber: bool = False,
    normalize: bool = False,
    channels_last: bool | None = None,
) -> Images:
    """A data set of the splits train, and test and validation where there are any: their labels are numbered alike, and
    their shapes the same.

    renumber: as in `encode_labels`. channels_last: what the user said of their axes; None: nothing. Raises DataError
    for splits that do not go together."""
    labels = {split: each.labels for split, each in splits.items()}
    names, codes = encode_labels(labels, as_classes(classes, f"data set {name}"), renumber=renumber)
    if len(names) < 2:
        raise DataError(
            "there is one class only",
            where=f"data set {name}",
            expected="2 classes or more",
            got=names[0],
            remedy="give samples of each class, or name all: classes=[...]",
        )
    made = {split: as_split(each, codes[split]) for split, each in splits.items()}
    train = made["train"]
    like = train.take(np.arange(1))
    check_alike(made, like, name)
    note_axes(like, f"data set {name}", channels_last)
    shape = like.shape[1:]
    pixels = like.dtype == np.uint8
    if not pixels:
        check_no_range(splits["train"], like, name)
    images = Images(
        name,
        train,
        made.get("test"),
        names,
        (shape[2], *shape[:2]) if pixels else shape,
        validation=made.get("validation"),
    )
    note_repeated(made, f"data set {name}")
    if not (pixels or normalize or splits["train"].numbers):
        return images
    mean, std = moments_of(train)
    return replace(
        images,
        mean=mean,
        std=std,
        decoding=resolved(splits["train"].decoding, images.shape) if pixels else None,
        in_memory=not splits["train"].from_files,
    )


def check_alike(splits: Mapping[str, Split], like: np.ndarray, name: str) -> None:
    """Raises DataError for a split whose samples are unlike `like`, one of the training samples."""
    for split, samples in splits.items():
        if form(first := samples.take(np.arange(1))) != form(like):
            raise DataError(
                f"the {split} samples are unlike the training samples",
                where=f"data set {name}",
                expected=form(like),
                got=form(first),
            )


def check_no_range(train: LabelledSplit, like: np.ndarray, name: str) -> None:
    """Raises DataError where floats, as `like` is, are to have a range of values."""
    if train.decoding.value_range is not None:
        raise DataError(
            "floats have no black and white",
            where=f"data set {name}",
            expected="pictures of whole numbers, or no value_range",
            got=form(like),
            remedy="leave value_range out, and normalize=True; or pictures of whole numbers: x.astype('int32')",
        )


def moments_of(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, of pixels in [0, 1] or of floats."""
    if isinstance(split, ItemsSplit) and (found := split.moments()):
        return found
    samples = split.samples if isinstance(split, ArraySplit) else split.take(np.arange(len(split)))
    return moments(samples) if split.dtype == np.uint8 else float_moments(samples)


REPEATED_BYTES = 2**31
"""The bytes of samples up to which those that are there twice are looked for."""


def note_repeated(made: Mapping[str, Split], where: str) -> None:
    """Tell of samples that are in several splits in memory."""
    held = {split: each.samples for split, each in made.items() if isinstance(each, ArraySplit)}
    if len(held) == len(made) and sum(x.nbytes for x in held.values()) <= REPEATED_BYTES:
        note_duplicates(held, where)


def resolved(decoding: Decoding, shape: tuple[int, ...]) -> Decoding | None:
    """The decoding with the size and mode that the samples have, so that others are read alike.

    None where they have a number of channels that no picture has.
    """
    channels, height, width = shape
    mode = {1: "grey", 3: "rgb"}.get(channels)
    return mode and replace(decoding, size=(height, width), mode=mode)  # pyright: ignore[reportReturnType]


def as_split(split: LabelledSplit, codes: np.ndarray) -> Split:
    """A labelled split as a `Split` with these labels, int [N]; samples that are a `Split` already are kept as such."""
    if isinstance(split.samples, np.ndarray):
        return ArraySplit(split.samples, codes)
    if np.array_equal(split.samples.labels, codes):
        return split.samples
    if isinstance(split.samples, ItemsSplit):
        return split.samples.labelled(codes)
    return ArraySplit(split.samples.take(np.arange(len(codes))), codes)


def stacked(samples: Iterable[np.ndarray], count: int, where: str) -> np.ndarray:
    """[count, *shape] of `count` arrays, which must be alike."""
    out: np.ndarray | None = None
    for row, sample in enumerate(samples):
        if out is None:
            out = np.empty((count, *sample.shape), sample.dtype)
        if form(sample[None]) != form(out):
            raise unlike_error(f"{where}, row {row}", form(out), form(sample[None]))
        out[row] = sample
    if out is None:
        raise DataError("there is no sample", where=where)
    return out
