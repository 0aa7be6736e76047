"""Classes of labels: names are matched to names, and numbers to numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ffdist.data.labels import Labels, unlike_kinds_error
from ffdist.errors import DataError
from ffdist.notes import listed, note


class Classes(NamedTuple):
    """The classes as a user gives them, in their order."""

    names: list[str]
    values: list[int] | None
    """The number that is each class's label; None: 0, 1, ..."""


def as_classes(classes: Any, where: object) -> Classes | None:
    """classes: K names, K whole numbers that are the labels, how many there are, or a mapping between 0..K-1 and names.

    Raises DataError for anything else, and for a class that is there twice.
    """
    if classes is None:
        return None
    given: Any = classes.tolist() if hasattr(classes, "tolist") else classes
    if isinstance(given, int):
        if isinstance(given, bool) or given < 1:
            raise no_classes_error(classes, where)
        return Classes([str(k) for k in range(given)], None)
    if isinstance(given, Mapping):
        places = {(v if isinstance(v, int) else k): (k if isinstance(v, int) else v) for k, v in given.items()}
        given = [places.get(k) for k in range(len(given))]
    if isinstance(given, (set, frozenset)):
        raise DataError(
            "classes have no order",
            where=where,
            expected="K names in the order of the numbers",
            got=f"a {type(given).__name__}",
            remedy="sorted(classes), or a list of them",
        )
    if callable(given) or isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise no_classes_error(classes, where)
    found: list[Any] = [value.item() if isinstance(value, np.generic) else value for value in given]
    if not found:
        return None
    numbers = all(isinstance(value, int) for value in found)
    names = [str(value) if numbers else as_name(value) for value in found]
    if None in names:
        raise no_classes_error(classes, where)
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise DataError("a class is named twice", where=where, expected="K different names", got=listed(twice))
    values = [int(value) for value in found] if numbers else None
    return Classes([name for name in names if name], None if values == list(range(len(found))) else values)


def as_name(value: Any) -> str | None:
    """A text, or several words for one class, as ImageNet's have; None for what is neither."""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    return value if isinstance(value, str) and value else None


def no_classes_error(classes: Any, where: object) -> DataError:
    """The error for what cannot be read as classes."""
    shown = f"a {type(classes).__name__}, {classes!r}"
    return DataError(
        "these are not class names",
        where=where,
        expected="K names, such as ['cat', 'dog'], or how many",
        got=shown if len(shown) < 90 else shown[:80] + " ...",
    )


def own_names(names: Any, where: object) -> list[str] | None:
    """The class names that data bring along; what cannot be read as names is noted and left out."""
    try:
        classes = as_classes(names, where)
    except DataError as error:
        note(f"{where}: its own class names are not used: {error.what}: {error.got}")
        return None
    return None if classes is None or classes.values else classes.names


def encode_labels(
    splits: Mapping[str, Labels], classes: Classes | None, *, renumber: bool
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The classes' names, and each split's labels as their places, int64 [N].

    renumber: whether numbers without names that do not count from 0 become classes in their order, or are refused.
    Raises DataError naming the row of a label that is no class.
    """
    first = "train" if "train" in splits else next(iter(splits))
    train = splits[first]
    if train.names and (train.text or classes is None or {*classes.names} == {*train.names}):
        names = classes.names if classes else train.names
        codes = {split: by_name(labels, names, train) for split, labels in splits.items()}
    else:
        if classes is None:
            values = occurring(train) if renumber else counted(train)
            classes = Classes([str(value) for value in values], values)
        names = classes.names
        check_order(train, classes)
        codes = {split: by_number(labels, classes, train) for split, labels in splits.items()}
    if text := alike_names_note(names):
        note(f"{train.where}: {text}")
    absent = np.flatnonzero(np.bincount(codes[first], minlength=len(names)) == 0)
    if len(absent) and len(names) > 1:
        note(f"{train.where}: no sample of class {listed([names[k] for k in absent])}")
    return names, codes


def alike_names_note(names: Sequence[str]) -> str | None:
    """A note on names that differ by blanks or capitals alone: they may be one class, written in several ways."""
    written: dict[str, list[str]] = {}
    for name in names:
        written.setdefault(" ".join(name.split()).casefold(), []).append(name)
    found = [" and ".join(map(repr, spellings)) for spellings in written.values() if len(spellings) > 1]
    return (
        f"classes that differ by blanks or capitals alone: {listed(found)}; write them alike if they are one"
        if found
        else None
    )


def by_name(labels: Labels, names: Sequence[str], train: Labels) -> np.ndarray:
    """Labels as places in `names`, int64 [N]. Raises DataError naming the row of a label that is none of them."""
    if labels.names is None and train.text:
        raise unlike_kinds_error(labels, train)
    own = labels.names or train.names or []
    check_range(labels, len(own))
    place = {name: k for k, name in enumerate(names)}
    places = np.array([place.get(name, -1) for name in own], np.int64)
    codes = places[labels.numbers]
    if len(bad := np.flatnonzero(codes < 0)):
        raise no_class_error(labels, int(bad[0]), names, own[labels.numbers[bad[0]]])
    return codes


def by_number(labels: Labels, classes: Classes, train: Labels) -> np.ndarray:
    """Labels as places in `classes`, int64 [N], by their numbers, whatever names the data have for these."""
    if labels.text:
        if classes.values is not None or train.names:
            raise unlike_kinds_error(labels, train)
        return by_name(labels, classes.names, labels)
    if labels.names and train.names and labels.names != train.names:
        labels = Labels(by_name(labels, train.names, train), train.names, False, labels.where)
    if classes.values is None:
        check_range(labels, len(classes.names))
        return labels.numbers
    order = np.argsort(classes.values)
    known = np.array(classes.values)[order]
    places = np.searchsorted(known, labels.numbers).clip(max=len(known) - 1)
    if len(bad := np.flatnonzero(known[places] != labels.numbers)):
        raise no_class_error(labels, int(bad[0]), classes.names, labels.numbers[bad[0]])
    return order[places]


def check_range(labels: Labels, count: int) -> None:
    """Raises DataError naming the first row whose label is not in 0..count-1."""
    if len(bad := np.flatnonzero(labels.numbers >= count)):
        from_one = labels.numbers.min() > 0 and labels.numbers.max() == count
        raise DataError(
            "a label is out of range",
            where=f"{labels.where}, row {bad[0]}",
            expected=f"0..{count - 1}",
            got=labels.numbers[bad[0]],
            remedy="count from 0: y - 1" if from_one else "name every class, in the order of the numbers",
        )


def no_class_error(labels: Labels, row: int, names: Sequence[str], got: object) -> DataError:
    """The error for a label that is no class."""
    return DataError(
        "a label is out of range",
        where=f"{labels.where}, row {row}",
        expected=listed([*names], 12),
        got=got,
        remedy="name every class, or leave such rows out",
    )


def check_order(train: Labels, classes: Classes) -> None:
    """Raises DataError for the numbers 0..K-1 named by each other: are they names, or an order?"""
    numerals = [str(k) for k in range(len(classes.names))]
    if classes.values is None and classes.names != numerals and sorted(classes.names) == sorted(numerals):
        raise DataError(
            "class names are the labels' numbers in another order",
            where=train.where,
            expected="names, or 0..K-1 in their order",
            got=listed(classes.names),
            remedy=f"classes=[{', '.join(classes.names)}] as numbers, if label "
            f"{classes.names[0]} is to be the first class",
        )


def occurring(train: Labels) -> list[int]:
    """The numbers that occur, in their order."""
    values = np.unique(train.numbers).tolist()
    if values != list(range(len(values))):
        note(f"{train.where}: labels {listed(values)} become classes 0..{len(values) - 1}, named by those numbers")
    return values


def counted(train: Labels) -> list[int]:
    """0..K-1 up to the largest label. Raises DataError for labels that do not count from 0, or hardly."""
    found = np.unique(train.numbers)
    count = int(found[-1]) + 1
    if found[0] or count > 2 * len(found) or count - 1 > len(train):
        few = len(found) <= 12
        raise DataError(
            "labels are not numbered from 0",
            where=train.where,
            expected="0..K-1 for K classes",
            got=f"{len(found)} different: {listed(found.tolist(), 5)}",
            remedy=f"from_tensors(x, y, classes={found.tolist()}), from_dataset likewise"
            if few
            else "_, y = numpy.unique(y, return_inverse=True), or classes=numpy.unique(y)",
        )
    return list(range(count))
