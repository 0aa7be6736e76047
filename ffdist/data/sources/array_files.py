"""NumPy's files: one .npz with samples and labels, or a folder with a .npy of each."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ffdist.data.arrays import FEW, as_bytes, as_samples
from ffdist.data.classes import as_classes, encode_labels
from ffdist.data.column_names import Columns
from ffdist.data.depth import Range
from ffdist.data.labels import Labels, labels_of
from ffdist.data.manifest import LeftOut
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.listing import is_junk
from ffdist.data.sources.shares import HoldOutOptions, Shares
from ffdist.data.sources.splits import SPLITS, TEST, TRAIN, split_of
from ffdist.errors import DataError, setting
from ffdist.notes import listed, note

SAMPLES = ("x", "image", "images", "img", "imgs", "data", "sample", "samples", "feature", "features", "inputs", "arr_0")
LABELS = ("y", "label", "labels", "target", "targets", "class", "arr_1")
NAMES = ("classes", "class_names", "label_names", "names")
EXPECTED = "x and y, or x_train, y_train, x_test and y_test; images and labels do as well"
ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError, OverflowError)
"""What a damaged file makes its reader raise."""
CHUNK = 1024
BEYOND = f"name black and white: {setting('value_range', '{black:g} {white:g}')}; or save floats: x.astype('float32')"


def holds_arrays(path: Path) -> bool:
    """True if it is one of NumPy's files, or a folder that has .npy files and no folders in it."""
    if path.is_file():
        return path.suffix.lower() in (".npz", ".npy")
    if not path.is_dir():
        return False
    entries = [entry for entry in path.iterdir() if not is_junk(entry.name)]
    return any(entry.suffix.lower() == ".npy" for entry in entries) and not any(entry.is_dir() for entry in entries)


class ArrayFiles(DataSource):
    """Samples [N, ...] and labels [N] of each split, by the arrays' names.

    columns: names of the arrays of samples, labels and groups, in place of the usual ones. Raises DataError for files
    that cannot be read, arrays whose part is not clear, and samples without labels.
    """

    def __init__(
        self, path: Path, *, columns: Columns, holding: HoldOutOptions, value_range: Range | None = None
    ) -> None:
        self.path = path
        self.name = path.resolve().stem
        self.value_range = value_range
        arrays = opened(path)
        parts = names_by_split([*arrays], columns, path)
        self.samples = {split: arrays[names_of_split["samples"]] for split, names_of_split in parts.items()}
        self.where = {split: f"{path}, {names_of_split['samples']}" for split, names_of_split in parts.items()}
        names = next((arrays[name] for name in arrays if name.casefold() in NAMES), None)
        own = None if names is None else as_classes(names, path)
        self.found = {
            split: self.labels_in(
                arrays[names_of_split["labels"]], split, f"{path}, {names_of_split['labels']}", own and own.names
            )
            for split, names_of_split in parts.items()
        }
        self.classes, self.labels = encode_labels(self.found, None, renumber=True)
        first = TRAIN if TRAIN in self.labels else TEST
        self.groups = groups_of(arrays, columns.group, self.labels[first], path) if columns.group else None
        counts = {split: len(labels) for split, labels in self.labels.items()}
        self.shares = Shares(counts, self.labels[first], holding, self.groups, columns.group and f"'{columns.group}'")
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.notes = self.shares.notes
        used = {name for names_of_split in parts.values() for name in names_of_split.values()}
        self.left_out = [
            LeftOut(name, "neither samples nor labels, by its name")
            for name in arrays
            if name not in used and name.casefold() not in NAMES and name != columns.group
        ]

    def labels_in(self, array: np.ndarray, split: str, where: str, names: list[str] | None) -> Labels:
        return labels_of(array, where, len(self.samples[split]), names)

    @property
    def pictures(self) -> bool:
        """True if samples are pictures of whole numbers, and not plain numbers."""
        first = next(iter(self.samples.values()))
        return first.dtype.kind in "biu" and first.ndim in (3, 4)

    def floats(self, split: str) -> np.ndarray:
        """A split's samples as float32 [N, *shape], channels first."""
        x = rows_of(self.samples[split], 0, None, self.where[split])
        whole = x.dtype.kind in "biu" and x.ndim == 2
        last = x.ndim == 4 and x.shape[3] <= FEW < x.shape[1]  # as Keras has pictures
        if last:
            note(f"{self.where[split]}: samples {list(x.shape[1:])} are taken for pictures with their channels last")
        return as_samples(x.astype(np.float32) if whole else x, self.where[split], channels_last=last or None)

    def items(self) -> Iterator[Item]:
        for split, labels in self.labels.items():
            x, where = self.samples[split], self.where[split]
            if x.ndim == 4 and x.shape[1] > FEW < x.shape[3]:
                raise DataError(
                    "samples are no pictures",
                    where=where,
                    expected="[N, H, W], [N, H, W, C] or [N, C, H, W]",
                    got=f"{x.dtype} {list(x.shape)}",
                    remedy="save them as floats: x.astype('float32')",
                )
            for start in range(0, len(x), CHUNK):
                part = as_bytes(rows_of(x, start, start + CHUNK, where), where, BEYOND, self.value_range)
                mine = labels[start : start + CHUNK].tolist()
                for row, (picture, label) in enumerate(zip(part, mine, strict=True), start):
                    share = self.shares.split(row) if split == TRAIN else split
                    yield Item(share, label, picture, f"{where}, row {row}")


def opened(path: Path) -> Mapping[str, np.ndarray]:
    """Arrays by name; samples of a folder in the memory map, whose values are read by `rows_of` alone."""
    if path.is_file() and path.suffix.lower() == ".npy":
        raise DataError(
            "one array alone has no labels",
            where=path,
            expected="a folder with samples and labels",
            got=path.name,
            remedy=f"give the folder that has both, x.npy and y.npy: {path.parent}",
        )
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix.lower() == ".npy")
    found: dict[str, np.ndarray] = {}
    for file in files:
        try:
            loaded = np.load(file, mmap_mode="r", allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                rows = loaded.ndim > 1 and loaded.flags.c_contiguous
                found[file.stem] = loaded if rows else np.load(file, allow_pickle=False)
                continue
            with loaded:
                found |= {name: loaded[name] for name in loaded.files}
        except ERRORS as error:
            pickled = "Object arrays" in str(error)
            # of foreign bytes numpy says that they may be unpickled
            got = "neither an array nor a zip of such" if "allow_pickle" in str(error) else why(error)
            raise DataError(
                "a NumPy file cannot be read",
                where=file,
                expected="arrays of numbers or texts",
                got="arrays of Python's objects, which would have to be unpickled" if pickled else got,
                remedy="save numbers: numpy.stack(list(x)), y.astype(str)" if pickled else "save it anew",
            ) from error
    return found


def rows_of(array: np.ndarray, start: int, stop: int | None, where: str) -> np.ndarray:
    """Rows of an array, read from the file where it is mapped: a map of a file that is cut off meanwhile ends this
    process. Raises DataError for such a file."""
    part = array[start:stop]
    if not isinstance(array, np.memmap) or array.filename is None:
        return part
    offset = array.offset + start * array.strides[0]
    try:
        values = np.fromfile(array.filename, array.dtype, part.size, offset=offset)
    except OSError as error:
        raise DataError("a NumPy file cannot be read", where=where, got=error.strerror or error) from error
    if values.size != part.size:
        raise DataError(
            "the source changed while it was read",
            where=where,
            expected=f"{len(array)} samples, as its header says",
            got=f"a file that ends in row {start + values.size // max(1, part[:1].size)}",
            remedy="start again when it is complete",
        )
    return values.reshape(part.shape)


def why(error: BaseException) -> object:
    """The reason that a file cannot be read: NumPy takes whatever is none of its own for a pickle."""
    return "no file of NumPy's" if "pickled data" in str(error) else error


def names_by_split(names: list[str], columns: Columns, path: Path) -> dict[str, dict[str, str]]:
    """The names of samples and labels of each split."""
    usual = Columns()
    roles = {
        "samples": SAMPLES if columns.image == usual.image else (columns.image.casefold(),),
        "labels": LABELS if columns.label == usual.label else (columns.label.casefold(),),
    }
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        if name == columns.group or name.casefold() in NAMES:
            continue
        split, rest = divided(name)
        role = next((role for role, known in roles.items() if rest in known or name.casefold() in known), None)
        if role is None:
            continue
        if role in parts.setdefault(split, {}):
            raise DataError(
                f"two arrays may be the {role} of {split}",
                where=path,
                expected=EXPECTED,
                got=f"{parts[split][role]} and {name}",
                remedy=f"name them: {setting('image_column')}, {setting('label_column')}",
            )
        parts[split][role] = name
    whole = {split: names_of_split for split, names_of_split in parts.items() if len(names_of_split) == 2}
    if whole != parts or not whole or (TRAIN not in whole and TEST not in whole):
        raise DataError(
            "samples and labels are not found",
            where=path,
            expected=EXPECTED,
            got=listed(names, 12) or "none",
            remedy=f"name them: {setting('image_column')}, {setting('label_column')}",
        )
    return {split: whole[split] for split in SPLITS if split in whole}


def divided(name: str) -> tuple[str, str]:
    """The split that a name speaks of, train where it speaks of none, and the rest of it, in small letters."""
    if name.casefold() in ("arr_0", "arr_1"):
        return TRAIN, name.casefold()
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    splits = [split for word in words if (split := split_of(word.casefold())) and word.casefold() not in SAMPLES]
    rest = [word.casefold() for word in words if not split_of(word.casefold())]
    return (splits[0] if splits else TRAIN), "_".join(rest)


def groups_of(arrays: Mapping[str, np.ndarray], name: str, labels: np.ndarray, path: Path) -> np.ndarray:
    """int64 [N] of an array of groups, of any type."""
    if name not in arrays:
        raise DataError("there is no array of groups", where=path, expected=name, got=listed([*arrays], 12))
    _, groups = np.unique(arrays[name], return_inverse=True)
    if groups.shape != labels.shape:
        raise DataError(
            "the number of groups is not that of the samples",
            where=f"{path}, {name}",
            expected=f"[{len(labels)}]",
            got=list(arrays[name].shape),
        )
    return groups
