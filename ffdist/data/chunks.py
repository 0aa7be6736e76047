"""Items of a source, decoded a chunk at a time; and what is said of pictures that cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ffdist.data.decode import Decoding, read_picture
from ffdist.data.images import Moments
from ffdist.data.row_digests import digest_of
from ffdist.data.sources.base import Item
from ffdist.data.sources.listing import SHOWN, first_names
from ffdist.data.storing import read_and_kept
from ffdist.data.survey import Survey
from ffdist.errors import DataError, setting


class ReferencePicture(NamedTuple):
    """The picture that all others must be like."""

    where: str
    shape: tuple[int, int, int]
    """(H, W, C)."""

    @property
    def bytes(self) -> int:
        """Bytes of its pixels."""
        h, w, c = self.shape
        return h * w * c


class BrokenPicture(NamedTuple):
    """A picture that cannot be read, with the reason."""

    where: str
    why: str
    split: str
    label: int


class Chunk(NamedTuple):
    """Decoded samples of one split."""

    split: str
    labels: np.ndarray
    pictures: np.ndarray | list[bytes]
    """uint8 [N, H, W, C]; or N encoded pictures."""
    shapes: set[tuple[int, ...]]
    """(H, W, C) of each encoded picture."""
    moments: Moments
    survey: Survey
    digests: np.ndarray
    """int64 [N], of the pixels."""
    broken: list[BrokenPicture]
    """Pictures that could not be read, beside the N."""


def first_readable(items: Iterator[Item], decoding: Decoding) -> tuple[Item, ReferencePicture, list[BrokenPicture]]:
    """The first item that can be read, how it looks, and those before it. Raises DataError where there is none."""
    broken = []
    for item in items:
        try:
            return (
                item,
                ReferencePicture(item.where, read_picture(item.data, item.where, decoding).pixels.shape),
                broken,
            )
        except DataError as error:
            broken.append(BrokenPicture(item.where, str(error.got), item.split, item.label))
    raise broken_pictures_error(broken)


def natural_order(broken: BrokenPicture) -> list[str | int]:
    """A sort key by the numbers in a picture's name: the second comes before the tenth."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", broken.where)]


def broken_pictures_error(broken: Sequence[BrokenPicture]) -> DataError:
    """One error that names all broken pictures."""
    remedy = "replace or remove {}, or leave {} out with " + setting("skip_broken", True)
    if len(broken) == 1:
        return DataError(
            "a picture cannot be read", where=broken[0].where, got=broken[0].why, remedy=remedy.format("it", "it")
        )
    lines = first_names([f"{one.where}: {one.why}" for one in broken], "\n         ")
    more = f"the first {SHOWN} are:\n         " if len(broken) > SHOWN else ""
    return DataError(
        f"{len(broken):,} pictures cannot be read", where=more + lines, remedy=remedy.format("them", "them")
    )


def check_left(broken: Sequence[BrokenPicture], counts: Mapping[str, list[int]], classes: Sequence[str]) -> None:
    """Raises DataError for classes of which only broken pictures were there."""
    lost = sorted({(one.split, one.label) for one in broken if not counts[one.split][one.label]})
    if lost:
        raise DataError(
            "no picture of a class can be read",
            where=first_names(f"{classes[label]} in {split}" for split, label in lost),
            got=first_names((f"{one.where}: {one.why}" for one in broken), "\n         ", 3),
            remedy=f"replace them, or leave the class out: its folder with {setting('ignore')}, its rows in a table",
        )


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of `size` (the last of a split may be shorter), each of one split, in that split's order."""
    held: dict[str, list[Item]] = {}
    for item in items:
        held.setdefault(item.split, []).append(item)
        if len(held[item.split]) == size:
            yield held.pop(item.split)
    yield from held.values()


def decode_chunk(items: list[Item], *, like: ReferencePicture, decoding: Decoding, encoded: bool = False) -> Chunk:
    """Decode items of one split; those that cannot be read are listed in the chunk.

    like: the picture whose shape all must have. encoded: whether pictures are kept encoded, and may differ in height
    and width. Raises DataError for a picture of another shape.
    """
    pixels, kept = np.empty((0 if encoded else len(items), *like.shape), np.uint8), list[bytes]()
    moments, survey, shapes = Moments(like.shape[-1]), Survey(), set[tuple[int, ...]]()
    labels, broken, digests = [], [], []
    for item in items:
        try:
            picture, data = (
                read_and_kept(item, decoding) if encoded else (read_picture(item.data, item.where, decoding), b"")
            )
        except DataError as error:
            broken.append(BrokenPicture(item.where, str(error.got), item.split, item.label))
            continue
        shape = picture.pixels.shape
        if shape[2:] != like.shape[2:] or (shape != like.shape and not encoded):
            raise unlike_error(like, ReferencePicture(item.where, shape), encoded=encoded)
        survey.add(picture, item.where)
        shapes.add(shape)
        digests.append(digest_of(np.ascontiguousarray(picture.pixels).data))
        if encoded:
            moments.add(picture.pixels[None])
            kept.append(data)
        else:
            pixels[len(labels)] = picture.pixels
        labels.append(item.label)
    if not encoded:
        pixels = pixels[: len(labels)]
        moments.add(pixels)
    return Chunk(
        items[0].split,
        np.array(labels, np.int32),
        kept if encoded else pixels,
        shapes,
        moments,
        survey,
        np.array(digests, np.int64),
        broken,
    )


def unlike_error(like: ReferencePicture, other: ReferencePicture, *, encoded: bool = False) -> DataError:
    """The error for two pictures of different shapes, with the setting that makes all alike."""
    sizes = like.shape[:2] != other.shape[:2] and not encoded
    remedies = [f"a size ({setting('size', '64')}), or keep them as they are ({setting('store', 'encoded')})"] * sizes
    remedies += [f"a mode ({setting('mode', 'rgb')}, or {setting('mode', 'grey')})"] * (like.shape[2] != other.shape[2])
    return DataError(
        f"two pictures differ in {'channels' if encoded else 'height, width or channels'}",
        where=f"{like.where} and {other.where}",
        expected=like.shape,
        got=other.shape,
        remedy=f"give {'; and '.join(remedies)}",
    )
