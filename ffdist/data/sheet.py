"""A contact sheet: pictures as a network gets them, several draws of each, with the names of their classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ffdist.data.images import Images
from ffdist.data.loader import Loader
from ffdist.errors import DataError

SIDE = 96
"""Small pictures are enlarged to about so many pixels."""
LINE = 14
"""Pixels for a line of text."""
GAP = 4
"""Pixels between two pictures."""


def sheet(
    images: Images, augment: Sequence[object] = (), *, pictures: int = 8, draws: int = 4, seed: int = 0
) -> Image.Image:
    """Training pictures of as many classes as may be, a row each: as it is in evaluation, then `draws` of what epochs
    0, 1, ... make of it, mixed with the others of the sheet where transforms mix.

    Raises DataError for samples that are no pictures, grey or RGB.
    """
    if len(images.shape) != 3 or images.shape[0] not in (1, 3):
        raise DataError(
            "these samples are no pictures to look at",
            where=f"data set {images.name}",
            expected="samples (1|3, H, W)",
            got=images.shape,
        )
    rows = of_each_class(images.train.labels, pictures)
    chosen: Sequence[Any] = augment  # texts and transforms
    loaders = [
        Loader(
            images, images.train, rows, batch_size=len(rows), seed=seed, train=train, augment=chosen if train else ()
        )
        for train in (False, True)
    ]
    columns = [loaders[0].batch(rows, 0, 0)] + [loaders[1].batch(rows, epoch, 0) for epoch in range(draws)]
    lines = 2 if loaders[1].mixing else 1
    _, height, width = images.shape
    scale = max(1, SIDE // max(height, width))
    cell = SheetCell(max(width * scale, SIDE), lines * LINE + height * scale)
    page = Image.new("RGB", (len(columns) * (cell.width + GAP), LINE + len(rows) * (cell.height + GAP)), "white")
    text = ImageDraw.Draw(page)
    names = [drawable_name(name, number) for number, name in enumerate(images.classes)]
    for column, (x, y) in enumerate(columns):
        left = column * (cell.width + GAP)
        write_line(text, (left, 0), f"draw {column}" if column else "plain", cell.width, "gray")
        for row, picture in enumerate(as_rgb(x.permute(0, 2, 3, 1).numpy(), images)):
            top = LINE + row * (cell.height + GAP)
            for line, label in enumerate(label_texts(y[row].tolist(), names)[:lines]):
                write_line(text, (left, top + line * LINE), label, cell.width)
            one = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(one, (left, top + lines * LINE))
    return page


class SheetCell(NamedTuple):
    """The size of a picture with its label, in pixels."""

    width: int
    height: int


def write_line(text: ImageDraw.ImageDraw, place: tuple[int, int], words: str, room: int, colour: str = "black") -> None:
    """Write a line, cut off after `room` pixels, where the next picture begins."""
    whole = words
    while words and text.textlength(words) > room - 2:
        whole = whole[:-1]
        words = f"{whole}..." if whole else ""
    text.text((place[0] + 1, place[1]), words, fill=colour)


def drawable_name(name: str, number: int) -> str:
    """A class's name, without its accents or by its number where the sheet's font lacks its letters."""
    lacking = pixels_of("\uffff")
    without = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    for text in (name, without):
        if all(pixels_of(sign) != lacking for sign in text):
            return text
    return f"class {number}"


def pixels_of(sign: str) -> bytes:
    """The bitmap of one sign in the sheet's font: those it lacks are all drawn alike."""
    page = Image.new("1", (LINE, LINE))
    ImageDraw.Draw(page).text((0, 0), sign, fill=1)
    return page.tobytes()


def as_rgb(x_bhwc: np.ndarray, images: Images) -> np.ndarray:
    """RGB of what was normalised; a user's floats from their least to their greatest."""
    x = x_bhwc * np.array(images.std) + np.array(images.mean)
    if not images.pixels:
        x = (x - x.min()) / max(float(x.max() - x.min()), 1e-9)
    rgb = np.broadcast_to(x, (*x.shape[:3], 3))
    return np.ascontiguousarray((rgb * 255).round().clip(0, 255).astype(np.uint8))


def label_texts(y: int | list[float], classes: Sequence[str]) -> list[str]:
    """A class's name; of mixed labels the shares, greatest first."""
    if isinstance(y, int):
        return [classes[y]]
    shares = sorted(((share, name) for share, name in zip(y, classes, strict=True) if share > 0.005), reverse=True)
    return [f"{share:.0%} {name}" for share, name in shares] if len(shares) > 1 else [shares[0][1]]


def of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows: the first of each class, then the second, ..."""
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1])
    rank = np.arange(len(labels)) - np.repeat(starts, np.diff([*starts, len(labels)]))
    return order[np.lexsort((labels[order], rank))][:count]
