"""A `torch.utils.data.Dataset` as a data set: in memory, or read anew in each epoch where it draws at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ffdist.data.classes import own_names
from ffdist.data.depth import Range
from ffdist.data.held_out import grouped, is_share, with_shares
from ffdist.data.images import Images
from ffdist.data.items import Items, plain_labels
from ffdist.data.items_split import ItemFacts, ItemsSplit
from ffdist.data.labelled import LabelledSplit
from ffdist.data.labels import labels_of
from ffdist.data.memory import assembled
from ffdist.data.reading import DEFAULT_READING, Reading
from ffdist.errors import DataError
from ffdist.notes import listed, note

READ_TWICE = 32
"""Items that are read again, to see whether they are the same."""
HELD = 2 * 2**30
"""Bytes of samples that stay in memory; of more, items are read when they are taken."""


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
    items will do. All are read once, now, and stay in memory. Where the items of `dataset` draw at random, as
    transforms do, they are read anew in each epoch of a training: torch's, NumPy's and Python's generators, the shared
    ones and those that the data set holds, begin at a seed of (seed of the run, epoch, item), so that no number of
    stages and no resumption changes a bit. Those of `test` and `validation` are drawn once, from `seed`. Items that
    draw from anything else are read once, and a note says so. Of more than 2 GiB none stay in memory: they are read
    when they are needed.

    Pictures: of Pillow, grey or RGB; paths of files, or their bytes; uint8 tensors or arrays [H, W], [C, H, W] or
    [H, W, C], whose channels are taken as they are; or floating-point tensors of any shape, left as they are unless
    `normalize`. Labels: whole numbers or names.
    classes: K names; default: the data set's own. name: default: that of its class. channels_last, normalize: as in
    `from_tensors`; value_range: as in `from_arrow`.
    test, validation: other data sets; or a share of the items, 0.2, drawn by class and by `seed`. groups: [N], the
    group of each item, such as a patient: no group is in two splits then.
    Raises DataError for items that are not so, and for items that differ in shape.
    """
    name = name or type(dataset).__name__
    reading = Reading(image, label, channels_last, value_range, seed)
    given = {"train": dataset, "test": test, "validation": validation}
    splits = {
        split: labelled_items(each, f"data set {name}, {split}", reading, anew=split == "train")
        for split, each in given.items()
        if each is not None and not is_share(each)
    }
    splits["train"] = grouped(splits["train"], groups, f"data set {name}")
    splits = with_shares(splits, test, validation, seed)
    return assembled(name, splits, classes, normalize=normalize, channels_last=channels_last)


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
    return joined_names(parts, type(dataset).__name__) if parts and not any(part is None for part in parts) else None


def joined_names(parts: list[Any], where: str) -> Any:
    """The names of data sets that are one after the other: the longest, where all count alike. Raises DataError where
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


def labelled_items(
    dataset: Any, where: str, reading: Reading = DEFAULT_READING, *, anew: bool = False
) -> LabelledSplit:
    """All items of a data set, a loader's data set, or a list. anew: whether what they draw at random is drawn anew in
    each epoch."""
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
    items = Items(dataset, where, reading)
    with items.generators.restarting() as begin:
        begin(reading.seed)
        before = items.generators.states()
        held, facts = read(items)
        drawn = [name for name, state in items.generators.states().items() if state != before[name]]
    items.reader.finish(where)
    labels = labels_of(
        plain_labels(items.labels),
        where,
        len(items.labels),
        own_names(classes_in(dataset, reading.label), where),
        "leave such items out: torch.utils.data.Subset(dataset, rows)",
    )
    files = items.reader.files == len(labels)
    split = ItemsSplit(items, np.arange(len(labels)), labels.numbers, facts, drawn=bool(drawn))
    if stay_as_read(split, held, drawn, anew=anew) and held is not None:
        return LabelledSplit(held, labels, items.reader.decoding, files)
    for row, x in enumerate(held if held is not None else ()):
        facts.add(row, x)
    return LabelledSplit(split, labels, items.reader.decoding, files)


def read(items: Items) -> tuple[np.ndarray | None, ItemFacts]:
    """All samples, where they fit into memory; else what is to be known of each."""
    held = facts = None
    for row, x in enumerate(items.first()):
        if facts is None:
            facts = ItemFacts.like(x, len(items))
            held = np.empty((len(items), *x.shape), x.dtype) if x.nbytes * len(items) <= HELD else None
        if held is None:
            facts.add(row, x)
        else:
            held[row] = x
    if facts is None:
        raise DataError("there is no sample", where=items.where)
    return held, facts


def stay_as_read(split: ItemsSplit, held: np.ndarray | None, drawn: list[str], *, anew: bool) -> bool:
    """Find out whether samples stay as they were read first, and say so. drawn: whose generators were used.

    Raises DataError for items that are others whenever they are read, where there is no memory for all."""
    where = split.items.where
    whose = f"{listed([*drawn])} generators".replace(", ", " and ").replace(" and ", ", ", max(len(drawn) - 2, 0))
    if why := difference_when_read_again(split, None if drawn else held):
        if held is None:
            raise DataError(
                "items must be read again and again, and are others each time",
                where=where,
                expected=f"no more than {HELD / 2**30:g} GiB, or the same from the same seed",
                got=why,
                remedy="draw from torch's, NumPy's or Python's generators: numpy.random.random()",
            )
        note(
            f"{where}: {why}; every item was read once, and stays so in all epochs (anew in each: draw from torch's, "
            "NumPy's or Python's generators; or fit(augment=...))"
        )
        return True
    if drawn and anew:
        note(f"{where}: items draw from {whose}, and are read anew in each epoch")
        return False
    if drawn:
        note(f"{where}: items draw from {whose}: they were drawn once, and stay so")
    if held is None:
        size = len(split) * split.facts.numbers * split.dtype.itemsize / 2**30
        note(f"{where}: {size:.1f} GiB do not stay in memory; items are read when they are needed")
    return held is not None


def difference_when_read_again(split: ItemsSplit, held: np.ndarray | None) -> str | None:
    """The difference between items and the same read again, from the same seeds; None where there is none. held: all,
    if what was read first is to be the same."""
    rows = np.unique(np.linspace(0, len(split) - 1, min(READ_TWICE, len(split))).astype(np.int64))
    try:
        first = split.take(rows) if held is None else held[rows]
        again = split.take(rows)
    except Exception as error:  # what was read is there, and this is only a question
        reason = f"{error.what}, {error.where}" if isinstance(error, DataError) else str(error)
        return f"items cannot be read again ({reason})"
    others = sum(
        not np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in zip(first, again, strict=True)
    )
    return f"{others} of {len(rows)} items are others when read again, whatever the seed" if others else None
