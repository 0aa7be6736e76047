"""Data for a network that is trained already: other samples, of the same kind, classes and scale."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ffdist.data.alike import BEYOND
from ffdist.data.catalog import is_prepared, open_data
from ffdist.data.classes import as_classes, by_number
from ffdist.data.given import as_images, labelled_split, name_of
from ffdist.data.images import Images, Split, ValueSpread
from ffdist.data.labels import numbered
from ffdist.data.memory import as_split
from ffdist.data.preparation import Preparation
from ffdist.data.presenting import as_network_input
from ffdist.errors import ConfigError, DataError, setting


class DataDescription(Protocol):
    """The facts known of the data that a network was trained on."""

    @property
    def classes(self) -> list[str]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def pixels(self) -> bool: ...

    @property
    def preprocess(self) -> tuple[str, ...]: ...


def to_measure(data: Any, learned: DataDescription, image_size: int | None) -> Images:
    """Any data a user has, whose split "test" is what is measured: of samples without splits, all of them.

    image_size: the side that pictures were resized to in training, if they were. Raises DataError for what does not fit
    the network, and for a data set without a test split.
    """
    if isinstance(data, (str, Path)):
        data = opened_to_measure(data, learned, image_size)
    images = as_images(data) if isinstance(data, (Images, Mapping)) else one_split(data, learned)
    if images.pixels and len(images.shape) == 3:
        images = as_network_input(images, image_size=image_size, preprocess=learned.preprocess)
    if learned.pixels and not images.pixels and images.test is not None:
        check_unit(images.test, images.name)
        images = replace(images, mean=learned.mean, std=learned.std)
        return as_trained_images(images, learned, f"data set {images.name}", floats=True)
    return as_trained_images(images, learned, f"data set {images.name}")


def opened_to_measure(
    place: str | Path, learned: DataDescription, image_size: int | None, preparation: Preparation | None = None
) -> Images:
    """A data set by name, or a source, whose pictures are prepared as those of the training were; of one without a test
    split, all is that.

    preparation: how the training's own source was prepared, whose columns count.
    """
    name, preprocess = os.path.expanduser(place), learned.preprocess
    if is_prepared(name):
        return as_network_input(open_data(name), image_size=image_size, preprocess=preprocess)
    preparation = replace(
        preparation or Preparation(),
        splits=(),
        ignore=(),
        group_column=None,
        group_pattern=None,
        validation_fraction=None,
    )
    if (decoding := getattr(learned, "decoding", None)) is not None:
        size = decoding.size if preprocess else learned.shape[1:]
        preparation = replace(
            preparation,
            size="{}x{}".format(*size) if size else None,
            mode={1: "grey", 3: "rgb"}.get(learned.shape[0], "keep"),  # pyright: ignore[reportArgumentType]
            background=decoding.background,
            value_range=decoding.value_range,
        )
    try:
        images = open_data(name, prepared_as=replace(preparation, test_fraction=1.0))
    except ConfigError:  # it has a test split of its own; any other error is raised again by the next line
        images = open_data(name, prepared_as=replace(preparation, test_fraction=None))
    return as_network_input(images, image_size=image_size, preprocess=preprocess) if preprocess else images


def one_split(data: Any, learned: DataDescription) -> Images:
    """Samples with labels, and no splits: labels are the classes' names, or their numbers."""
    name = name_of(data)
    where = f"data set {name}"
    found = labelled_split(data, where)
    numbers = all(text.lstrip("-").isdecimal() for text in learned.classes)
    classes = as_classes([int(text) for text in learned.classes] if numbers else learned.classes, where)
    assert classes
    made = as_split(found, by_number(found.labels, classes, numbered(np.zeros(1, int), where)))
    shape = made.take(np.arange(1)).shape[1:]
    shape = (shape[2], *shape[:2]) if made.dtype == np.uint8 else shape
    return Images(name, made, made, list(learned.classes), shape)


def check_unit(split: Split, name: str) -> None:
    """Floats for a network that has learned from pictures are such in 0..1."""
    spread = ValueSpread.of(split)
    if not (spread.low >= -BEYOND and spread.high <= 1 + BEYOND):
        raise DataError(
            "samples are beyond the range of the training",
            where=f"data set {name}",
            expected="pictures as in training: uint8 in 0..255, or floats in 0..1",
            got=f"{spread.low:g}..{spread.high:g}",
            remedy="x / 255 for floats in 0..255; no normalisation: the network does it",
        )


def no_test_error(images: Images) -> DataError:
    """The error for data without a test split."""
    return DataError(
        "the data have no test split",
        where=images.name,
        expected="a test split",
        got=f"splits {', '.join(images.splits)}",
        remedy=f"name data that have one: {setting('dataset.data')}, or prepare these with {setting('test_fraction')}",
    )


def as_trained_images(images: Images, learned: DataDescription, where: object, *, floats: bool = False) -> Images:
    """Fit other data to a trained network: normalised as those that it has learned. floats: whether they may be floats
    where it has learned from pictures.

    Raises DataError for samples of another shape or kind, and for other classes.
    """
    if images.pixels != learned.pixels and not floats:
        kinds = ("pictures in whole numbers", "floats")
        expected, got = kinds if learned.pixels else reversed(kinds)
        raise misfit_error(where, expected, got, "give such samples in Python: ffdist.load(RUN).predict(samples)")
    if tuple(images.shape) != learned.shape:
        remedy = f"prepare them so: ffdist data prepare SOURCE --out FOLDER {prepare_flags(learned)}"
        raise misfit_error(where, f"samples of {learned.shape}", f"samples of {tuple(images.shape)}", remedy)
    if list(images.classes) != learned.classes:
        expected = f"classes {', '.join(learned.classes[:5])}, ..."
        got = classes_differ(learned.classes, images.classes)
        raise misfit_error(where, expected, got, "prepare them with the names of classes that the run's own data have")
    return replace(images, mean=learned.mean, std=learned.std)


def misfit_error(where: object, expected: str, got: str, remedy: str) -> DataError:
    """The error for data of another shape, kind or classes than the network has learned."""
    return DataError("the data do not fit the network", where=where, expected=expected, got=got, remedy=remedy)


def prepare_flags(learned: DataDescription) -> str:
    """The flags of `data prepare` that make pictures of the shape that a network takes."""
    channels, height, width = learned.shape if len(learned.shape) == 3 else (0, 0, 0)
    mode = {1: " --mode grey", 3: " --mode rgb"}.get(channels, "")
    return f"--size {height}x{width}{mode}"


def classes_differ(before: list[str], now: list[str]) -> str:
    """The difference between the classes of the training and those of other data, in words."""
    if len(before) != len(now):
        return f"{len(before)} classes were, {len(now)} are"
    if sorted(before) == sorted(now):
        return f"the same classes in another order: {', '.join(before[:5])}, ... were, {', '.join(now[:5])}, ... are"
    index = next(i for i, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    return f"class {index} was '{before[index]}', and is '{now[index]}'"
