"""A `torch.utils.data.Dataset` as a data set in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ffdist.data.arrays import LIMITS, WHOLE_NUMBERS, as_array, as_bytes, as_floats_checked, as_picture
from ffdist.data.classes import own_names
from ffdist.data.column_names import Columns, found_columns, taken
from ffdist.data.depth import Range
from ffdist.data.held_out import grouped, is_share, with_shares
from ffdist.data.images import Images
from ffdist.data.labelled import Labelled
from ffdist.data.labels import labels_of
from ffdist.data.memory import assembled, stacked
from ffdist.data.reading import USUAL, Reading, seeded_draws
from ffdist.data.survey import Reader
from ffdist.errors import DataError, users_code
from ffdist.notes import listed, note, silenced

READ_TWICE = 32
"""Items that are read again, to see whether something in them is drawn."""


def from_dataset(
    dataset: Dataset,
    *,
    test: Dataset | float | None = None,
    validation: Dataset | float | None = None,
    groups: Any = None,
    image: str = "image",
    label: str = "label",
    classes: Any = None,
    channels_last: bool | None = None,
    normalize: bool = False,
    value_range: Range | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Images:
    """A data set whose items are (picture, label), or mappings that have them under `image` and `label`; a list of such
    items will do. Each item is read once, now, so its transforms are applied once: random ones, which is told, too.
    What they draw from Python's, NumPy's and torch's own generators begins at `seed` in each split.

    Pictures: of Pillow, grey or RGB; uint8 tensors or arrays [H, W], [C, H, W] or [H, W, C], whose channels are taken
    as they are; or floating-point tensors of any shape, left as they are unless `normalize`. Labels: whole numbers or
    names. classes: K names; default: the data set's own. name: default: that of its class. channels_last, normalize: as
    in `from_tensors`; value_range: as in `from_arrow`.
    test, validation: other data sets; or a share of the items, 0.2, drawn by class and by `seed`. groups: [N], whose
    item each is: no group is on two sides then.
    Raises DataError for items that are not so, and for items that differ in shape.
    """
    name = name or type(dataset).__name__
    reading = Reading(image, label, channels_last, value_range, seed)
    given = {"train": dataset, "test": test, "validation": validation}
    splits = {
        split: labelled_items(of, f"data set {name}, {split}", reading)
        for split, of in given.items()
        if of is not None and not is_share(of)
    }
    splits["train"] = grouped(splits["train"], groups, f"data set {name}")
    splits = with_shares(splits, test, validation, seed)
    return assembled(name, splits, classes, normalize=normalize, channels_last=channels_last)


def labelled_items(dataset: Any, where: str, reading: Reading = USUAL) -> Labelled:
    """All items of a data set, a loader's data set, or a list."""
    if isinstance(dataset, DataLoader):
        dataset = loaded(dataset, where)
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            "the data set has no length",
            where=where,
            expected="a map-style torch data set",
            got=type(dataset).__name__,
            remedy="datasets.Dataset.from_list(list(dataset), features=dataset.features)"
            if type(dataset).__module__.startswith("datasets.")
            else "ffdist.from_dataset(list(dataset))",
        )
    labels: list[Any] = []
    reader = reading.reader()

    def samples() -> Iterator[np.ndarray]:
        for row in range(len(dataset)):
            picture, target = item(dataset, row, where, reading)
            labels.append(target)
            yield sample(picture, f"{where}, row {row}", reading, reader)

    with seeded_draws(reading.seed):
        pictures = stacked(samples(), len(dataset), where)
        tell_draws(dataset, pictures, where, reading)
    reader.finish(where)
    found = labels_of(
        plain(labels),
        where,
        len(pictures),
        own_names(classes_in(dataset, reading.label), where),
        "leave such items out: torch.utils.data.Subset(dataset, rows)",
    )
    return Labelled(pictures, found, reader.decoding)


def item(dataset: Any, row: int, where: str, reading: Reading) -> tuple[Any, Any]:
    """A picture and its label. Raises DataError for an item that is not so."""
    with users_code(
        DataError,
        "an item cannot be read",
        where=f"{where}, row {row}",
        remedy="mend the data set's __getitem__, or leave the row out",
    ):
        found = dataset[row]
    image, label = reading.image, reading.label
    if isinstance(found, Mapping):
        told = Columns(image, label)
        columns = found_columns([*map(str, found)], told)
        if row == 0 and (text := taken(columns, told, ("image=", "label="))):
            note(f"{where}: {text}")
        image, label = columns.image, columns.label
        if image in found and label in found:
            return found[image], found[label]
        raise DataError(
            "an item lacks a picture or a label",
            where=f"{where}, row {row}",
            expected=f"'{image}' and '{label}'",
            got=listed([*found], 12),
            remedy="name them: ffdist.from_dataset(dataset, image=..., label=...)",
        )
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return found[0], found[1]
    many = isinstance(found, (tuple, list)) and len(found) > 2
    raise DataError(
        "an item is not (picture, label)",
        where=f"{where}, row {row}",
        expected="two values, the second a whole number or a name",
        got=f"{len(found)} values" if isinstance(found, (tuple, list)) else type(found).__name__,
        remedy="ffdist.from_dataset([(x, y) for x, y, *_ in dataset])" if many else None,
    )


def plain(labels: list[Any]) -> list[Any] | np.ndarray:
    """Labels of items, each a number, a text, or an array of one, as one array's."""
    values = [np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y, None) for y in labels]
    if all(value.ndim == 0 or value.shape == (1,) for value in values):
        return np.array([value.item() for value in values], object)
    return labels


def sample(picture: Any, where: str, reading: Reading, reader: Reader) -> np.ndarray:
    """uint8 [H, W, C], or float32 of any shape."""
    if isinstance(picture, Image.Image):
        return reader.read(picture, where)
    if not hasattr(picture, "__array__"):
        raise DataError(
            "an item's picture is of no known kind",
            where=where,
            expected="Pillow, tensor or array",
            got=type(picture).__name__,
            remedy="a transform, e.g. torchvision's PILToTensor",
        )
    x = as_array(picture, "an item's samples", where)
    if x.dtype.kind == "f":
        return as_floats_checked(x[None], where, reading.channels_last)[0]
    if x.ndim < 2 and x.dtype.kind in "iu":
        raise DataError(
            "an item's whole numbers are no picture",
            where=where,
            expected="floating-point numbers, or a picture",
            got=f"{x.dtype} {list(x.shape)}",
            remedy=WHOLE_NUMBERS.format("x.float()" if isinstance(picture, torch.Tensor) else 'x.astype("float32")')
            + ("" if x.ndim else "; x.reshape(1) of a single number"),
        )
    whole = as_bytes(x, where, f"float32, and from_dataset(dataset, normalize=True); or {LIMITS}", reading.value_range)
    return as_picture(whole, where, reading.channels_last)


def loaded(loader: DataLoader, where: str) -> Any:
    """A loader's data set. Raises DataError where the loader takes only some of its items, or makes batches itself."""
    sampler = loader.sampler
    every = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(loader.dataset)  # pyright: ignore
    )
    if not every and not isinstance(loader.dataset, IterableDataset):
        raise DataError(
            "a loader with a sampler of its own",
            where=where,
            expected="a data set",
            got=type(sampler).__name__,
            remedy="torch.utils.data.Subset(loader.dataset, list(loader.sampler))",
        )
    dropped = "" if loader.collate_fn is default_collate else ", without its collate_fn"
    note(f"{where}: of a DataLoader its data set is taken{dropped}; batches are made anew")
    return loader.dataset


def classes_in(dataset: Any, label: str) -> Any:
    """The names that a data set has, or that the one has of which it is a part; None where there are none."""
    if getattr(dataset, "classes", None) is not None:
        return dataset.classes
    if isinstance(features := getattr(dataset, "features", None), Mapping):  # of a datasets.Dataset
        return getattr(features.get(label), "names", None)
    if hasattr(dataset, "dataset"):
        return classes_in(dataset.dataset, label)
    parts = [classes_in(part, label) for part in getattr(dataset, "datasets", None) or ()]
    return joined(parts, type(dataset).__name__) if parts and not any(part is None for part in parts) else None


def joined(parts: list[Any], where: str) -> Any:
    """The names of data sets that are one behind the other: the longest, where all count alike. Raises DataError where
    a number is one class in one of them, and another class in another."""
    if not all(isinstance(part, (list, tuple)) for part in parts):
        return parts[0] if all(repr(part) == repr(parts[0]) for part in parts) else None
    longest = max(parts, key=len)
    for place, part in enumerate(parts):
        other = next((k for k, (own, name) in enumerate(zip(part, longest, strict=False)) if own != name), None)
        if other is not None:
            raise DataError(
                "the parts of the data set number their classes differently",
                where=f"{where}, part {place}",
                expected=f"{other} for {longest[other]}, as in part {parts.index(longest)}",
                got=f"{other} for {part[other]}",
                remedy="names as labels: [(x, part.classes[y]) for part in dataset.datasets "
                "for x, y in map(part.__getitem__, range(len(part)))]",
            )
    return longest


def tell_draws(dataset: Any, pictures: np.ndarray, where: str, reading: Reading) -> None:
    """Say so where an item is another one when it is read again."""
    rows = range(min(READ_TWICE, len(pictures)))
    reader = reading.reader()
    try:
        with silenced():
            again = [sample(item(dataset, row, where, reading)[0], where, reading, reader) for row in rows]
    except Exception:  # what was read is there, and this is only a question
        return
    if drawn := sum(not np.array_equal(pictures[row], again[row]) for row in rows):
        note(
            f"{where}: {drawn} of {len(rows)} items are others when read again, so something is drawn at random; "
            "every item was read once, and stays so in all epochs (anew in each: fit(augment=...))"
        )
