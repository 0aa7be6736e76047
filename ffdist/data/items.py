"""The items of a user's data set: each a picture, or any samples, and a label."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from ffdist.data.arrays import LIMITS, WHOLE_NUMBERS, as_array, as_bytes, as_floats_checked, as_picture
from ffdist.data.column_names import Columns, found_columns, taken_columns_note
from ffdist.data.columns import is_file
from ffdist.data.generators import Generators
from ffdist.data.readers import Readers
from ffdist.data.reading import Reading
from ffdist.data.survey import SurveyReader
from ffdist.errors import DataError, users_code
from ffdist.notes import listed, note


def item(dataset: Any, row: int, where: str, reading: Reading, *, announce: bool = False) -> tuple[Any, Any]:
    """A picture and its label. announce: note what was guessed. Raises DataError for an item that is not so."""
    with users_code(
        DataError,
        "an item cannot be read",
        where=f"{where}, row {row}",
        remedy="mend the data set's __getitem__, or leave the row out",
    ):
        found = dataset[row]
    image, label = reading.image, reading.label
    if isinstance(found, Mapping):
        given = Columns(image, label)
        columns = found_columns([*map(str, found)], given)
        if announce and (text := taken_columns_note(columns, given, ("image=", "label="))):
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


def sample(picture: Any, where: str, reading: Reading, reader: SurveyReader) -> np.ndarray:
    """One picture or sample as uint8 [H, W, C], or float32 of any shape. Raises DataError for anything else."""
    if isinstance(picture, (Image.Image, bytes, Path)):
        return reader.read(picture, where)
    if isinstance(picture, str) and is_file(Path(picture)):
        return reader.read(Path(picture), where)
    if not hasattr(picture, "__array__"):
        raise DataError(
            "an item's picture is of no known kind",
            where=where,
            expected="a picture of Pillow's, a tensor, an array, the path of a picture, or its bytes",
            got=f"the text {picture[:60]!r}, which is no file" if isinstance(picture, str) else type(picture).__name__,
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


def form(samples: np.ndarray) -> str:
    """Type and shape of one of them, for comparing and for errors."""
    return f"{samples.dtype} {list(samples.shape[1:])}"


def unlike_error(where: str, expected: str, got: str) -> DataError:
    return DataError(
        "a sample is unlike the first",
        where=where,
        expected=expected,
        got=got,
        remedy="bring all to one size and mode",
    )


NOT_SENT = ("_alone", "_readers", "generators", "later")
"""The attributes of `Items` that are not sent to other processes."""


class Items:
    """A map-style data set whose items are read again and again, one at a time."""

    what: str = "data set"
    alone: str = "items are read one after another"

    def __init__(self, dataset: Any, where: str, reading: Reading) -> None:
        self.dataset = dataset
        self.where = where
        self.reading = reading
        self.reader = reading.reader()
        """The survey of the first time that all were read."""
        self.labels: list[Any] = []
        """The labels that the items had then."""
        self.kind: tuple[np.dtype, tuple[int, ...]] | None = None
        """Type and shape of each sample."""
        self._alone = Lock()  # held while items are read: the generators that they draw from are the process's
        self._readers: weakref.ref[Readers] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in NOT_SENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _alone=Lock(), _readers=None)

    @cached_property
    def generators(self) -> Generators:
        return Generators(self.dataset)

    @cached_property
    def later(self) -> SurveyReader:
        """The reader of every time but the first: it tells nothing."""
        return self.reading.reader()

    def first(self) -> Iterator[np.ndarray]:
        """All samples in their order, for the first time, whose labels and kind the others are compared with."""
        for row in range(len(self)):
            picture, label = item(self.dataset, row, self.where, self.reading, announce=row == 0)
            x = sample(picture, f"{self.where}, row {row}", self.reading, self.reader)
            self.labels.append(label)
            self.check(x, f"{self.where}, row {row}")
            yield x

    def check(self, x: np.ndarray, where: str) -> None:
        """Raises DataError for a sample of another type or shape than the first."""
        self.kind = self.kind or (x.dtype, x.shape)
        if self.kind != (x.dtype, x.shape):
            raise unlike_error(where, form(np.empty((1, *self.kind[1]), self.kind[0])), form(x[None]))

    def again(self, row: int) -> np.ndarray:
        """A sample. Raises DataError for another kind of sample than at first, and for another label."""
        picture, label = item(self.dataset, row, self.where, self.reading)
        x = sample(picture, f"{self.where}, row {row}", self.reading, self.later)
        self.check(x, f"{self.where}, row {row}, read again")
        if not same(label, self.labels[row]):
            raise DataError(
                "an item has another label when it is read again",
                where=f"{self.where}, row {row}",
                expected=self.labels[row],
                got=label,
                remedy="draw pictures at random, and let labels stay; or read all once: ffdist.from_dataset("
                "[dataset[row] for row in range(len(dataset))])",
            )
        return x

    def read(self, rows: Sequence[int], seeds: Sequence[int] | None) -> np.ndarray:
        """Samples [N, *shape] of these rows. seeds: one a row, at which all generators begin; None: nothing is drawn.

        One thread reads at a time, as the generators are the process's. Raises as `again` does.
        """
        assert self.kind, "they were read before"
        out = np.empty((len(rows), *self.kind[1]), self.kind[0])
        if seeds is None:
            with self._alone:
                for place, row in enumerate(rows):
                    out[place] = self.again(row)
            return out
        with self.generators.restarting() as begin:
            for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
                begin(seed)
                out[place] = self.again(row)
        return out

    def readers(self, count: int) -> Readers:
        """`count` processes that read the items; splits that live at the same time share them."""
        found = self._readers and self._readers()
        if found is None or found.lost or found.count != count:
            found = Readers(self, count)
            self._readers = weakref.ref(found)
        return found


def same(one: Any, other: Any) -> bool:
    """True if two labels, of whatever type, are equal."""
    if type(one) is type(other) and isinstance(one, (int, str)):
        return one == other
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    except (TypeError, ValueError):
        return one is other


def plain_labels(labels: Sequence[Any]) -> Sequence[Any] | np.ndarray:
    """Labels of items, each a number, a text, or an array of one, as one array's."""
    values = [np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y, None) for y in labels]
    if all(value.ndim == 0 or value.shape == (1,) for value in values):
        return np.array([value.item() for value in values], object)
    return labels
