"""Data of any kind that a user holds, as a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ffdist.data.arrow_table import in_one_order, labelled_rows
from ffdist.data.catalog import open_data
from ffdist.data.classes import as_classes, by_number
from ffdist.data.images import Images, Split
from ffdist.data.items import form
from ffdist.data.labelled import LabelledSplit
from ffdist.data.labels import numbered
from ffdist.data.memory import as_split, assembled, labelled_pair
from ffdist.data.ray_dataset import labelled_ray_rows
from ffdist.data.torch_dataset import labelled_items
from ffdist.errors import DataError
from ffdist.notes import listed


class ColumnTable(Protocol):
    """A table of Arrow's, or a frame."""

    @property
    def columns(self) -> Any: ...


class NamedColumns(Protocol):
    """A `datasets.Dataset`."""

    @property
    def column_names(self) -> Any: ...


Data: TypeAlias = (
    Images
    | str
    | Path
    | tuple[Any, Any]
    | Sequence[tuple[Any, Any]]
    | Dataset[Any]
    | DataLoader[Any]
    | ColumnTable
    | NamedColumns
    | Mapping[str, Any]
    | Split
)
"""An opened data set, or the name or folder of one; (samples, labels) as tensors or arrays; a torch Dataset of (sample,
label), or a list of such pairs; an Arrow table, a frame or a `datasets.Dataset` with the columns "image" and "label";
a `ray.data.Dataset` of such columns; or a mapping of "train", "validation" and "test" to such."""

ACCEPTED = "(samples, labels), a torch Dataset, an Arrow table, a frame, a dict of splits, or a name or place"
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""What the splits of a mapping may be called."""


def as_images(data: Any, test: Any = None, validation: Any = None) -> Images:
    """Any data a user has (`Data`), as a data set. test, validation: its other splits, in any such form.

    Raises DataError for what is no data, and for splits of different shapes or classes.
    """
    others = {"test": test, "validation": validation}
    if isinstance(data, (str, Path)):
        data = open_data(data)
    if isinstance(data, Mapping):
        data, others = split_mapping(data, others)
    given = {split: each for split, each in others.items() if each is not None}
    if isinstance(data, Images):
        return with_splits(data, given)
    name = name_of(data)
    splits = {
        split: labelled_split(each, f"data set {name}, {split}", anew=split == "train")
        for split, each in {"train": data, **given}.items()
    }
    return assembled(name, in_one_order(splits), renumber=is_table(data))


def split_mapping(data: Mapping[str, Any], others: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The training split of a mapping, and the others with those that were given beside it."""
    unknown = [key for key in data if SPLITS.get(str(key).lower()) is None]
    found = {SPLITS[str(key).lower()]: key for key in data if key not in unknown}
    twice = len(found) < len(data) - len(unknown)
    if unknown or twice or "train" not in found:
        raise DataError(
            "splits are not understood",
            where="data",
            expected="train, and validation and test if there are any",
            got=listed([*data]) or "none",
            remedy=pair_of(data) or pairs_of(data) or "{'train': data['...'], 'test': data['...']}",
        )
    for split, each in others.items():
        if each is not None and split in found:
            raise DataError(
                f"there are two {split} splits",
                where=split,
                expected="one",
                got=f"data['{found[split]}'], and {split}=",
                remedy=f"leave `{split}` out",
            )
    own = {split: data[found[split]] if split in found else each for split, each in others.items()}
    return data[found["train"]], own


def pair_of(data: Mapping[str, Any]) -> str | None:
    """A mapping of samples and labels as a pair, where its keys say which is which."""
    keys = {str(key).lower(): key for key in data}
    samples, labels = ("x", "samples", "data", "images", "image"), ("y", "labels", "label", "target", "targets")
    pairs = ((x, y) for x in samples for y in labels)
    found = next(((keys[x], keys[y]) for x, y in pairs if {x, y} <= {*keys}), None)
    return found and f"(data[{found[0]!r}], data[{found[1]!r}])"


def pairs_of(data: Mapping[str, Any]) -> str | None:
    """A mapping of arrays, x_train and y_train and more, as pairs by split: as `numpy.load` has them of an archive."""
    known = {str(key).lower(): key for key in data}
    found = {}
    for split in ("train", "val", "test"):
        pairs = [(x, y) for x in ("x", "images") for y in ("y", "labels")]
        named = [(f"{x}_{split}", f"{y}_{split}") for x, y in pairs] + [
            (f"{split}_{x}", f"{split}_{y}") for x, y in pairs
        ]
        pair = next(((known[x], known[y]) for x, y in named if x in known and y in known), None)
        if pair:
            found[split] = f"'{split}': (data[{pair[0]!r}], data[{pair[1]!r}])"
    return f"{{{', '.join(found.values())}}}" if "train" in found else None


def with_splits(images: Images, given: Mapping[str, Any]) -> Images:
    """The data set with further splits. Raises DataError for one that it has already, or of another kind."""
    for split, each in given.items():
        if getattr(images, split) is not None:
            raise DataError(
                f"a data set brings its own {split} split",
                where=split,
                expected="a data set without one",
                got=f"data set {images.name}",
                remedy=f"leave `{split}` out",
            )
        found = labelled_split(each, f"data set {images.name}, {split}")
        classes = as_classes(images.classes, f"data set {images.name}")
        assert classes is not None
        made = as_split(found, by_number(found.labels, classes, numbered(np.zeros(1, int), images.name)))
        like, first = (form(part.take(np.arange(1))) for part in (images.train, made))
        if like != first:
            raise DataError(
                f"the {split} samples are unlike the training samples",
                where=f"data set {images.name}",
                expected=like,
                got=first,
            )
        images = replace(images, **{split: made}, source=None)
    return images


def labelled_split(data: Any, where: str, *, anew: bool = False) -> LabelledSplit:
    """One split of any form, read. anew: whether items are read in each epoch anew where they draw at random.

    where: names the split in errors. Raises DataError for what is no data.
    """
    if isinstance(data, Split):
        return LabelledSplit(data, numbered(data.labels, where))
    if isinstance(data, (Images, str, Path, Mapping)):
        held = "its name" if isinstance(data, (str, Path)) else "several splits"
        raise DataError(
            "one split is wanted",
            where=where,
            expected=f"one of {ACCEPTED}",
            got=f"a data set, by {held}",
            remedy="name the split: open_data(...).test, or data['test']",
        )
    if is_ray(data):
        return labelled_ray_rows(data, where)
    if is_table(data):
        return labelled_rows(data, where)
    if is_pair(data):
        samples, labels = data
        if all(isinstance(part, (tuple, list)) and len(part) == 2 and np.ndim(part[0]) > 1 for part in data):
            raise DataError(
                "two pairs are given as one",
                where=where,
                expected="(samples, labels)",
                got="((samples, labels), (samples, labels))",
                remedy="{'train': data[0], 'test': data[1]}",
            )
        return labelled_pair(samples, labels, where)
    if isinstance(data, (Dataset, DataLoader)) or is_list_of_items(data) or is_map_style(data):
        return labelled_items(data, where, anew=anew)
    raise unknown_kind_error(data, where)


def is_table(data: Any) -> bool:
    """Arrow's own, and what Arrow takes for a table: frames, a `datasets.Dataset`."""
    return (
        isinstance(data, (pa.Table, pa.RecordBatch))
        or (hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns"))
        or (
            type(data).__module__.startswith("datasets.")
            and hasattr(data, "__len__")
            and data.format["type"] != "custom"  # whose items a user's function makes
        )
    )


def is_ray(data: Any) -> bool:
    """A `ray.data.Dataset`."""
    return type(data).__module__.startswith("ray.data") and hasattr(data, "iter_batches")


def is_map_style(data: Any) -> bool:
    """A `datasets.Dataset` whose items a user's function makes."""
    return type(data).__module__.startswith("datasets.") and hasattr(data, "__len__")


def is_pair(data: Any) -> bool:
    """(samples, labels), and no list of two items."""
    items = (
        all(isinstance(part, tuple) and len(part) == 2 and is_single_label(part[1]) for part in data or ())
        if isinstance(data, (tuple, list))
        else False
    )
    return isinstance(data, (tuple, list)) and len(data) == 2 and not items


def is_single_label(label: Any) -> bool:
    """True if it can be the label of one item."""
    return isinstance(label, str) or np.size(label) == 1


def is_list_of_items(data: Any) -> bool:
    """True if it is a list of items."""
    return isinstance(data, (list, tuple)) and len(data) > 0 and isinstance(data[0], (tuple, list, Mapping))


def name_of(data: Any) -> str:
    """The name of a data set that brings none along, by its kind."""
    if is_table(data):
        return "table"
    return "tensors" if is_pair(data) else type(data).__name__


def unknown_kind_error(data: Any, where: str) -> DataError:
    """The error for what is no data, with the remedy for its kind."""
    kind = f"{type(data).__module__}.{type(data).__name__}".removeprefix("builtins.")
    remedy = None
    if isinstance(data, (Tensor, np.ndarray)):
        kind, remedy = f"{kind} without labels", "(samples, labels)"
    elif kind.startswith("datasets."):
        remedy = "datasets.Dataset.from_list(list(data), features=data.features)"
    elif kind.endswith("LazyFrame"):
        remedy = "data.collect()"
    elif isinstance(data, pa.RecordBatchReader):
        remedy = "data.read_all()"
    elif hasattr(data, "to_table"):  # of Arrow or Lance
        remedy = "data.to_table()"
    elif isinstance(data, tuple) and len(data) > 2:
        kind, remedy = f"{len(data)} values", "(samples, labels), and test=(samples, labels)"
    elif isinstance(data, Iterable):
        remedy = "a list of (sample, label): list(data)"
    return DataError("unknown kind of data", where=where, expected=ACCEPTED, got=kind, remedy=remedy)
