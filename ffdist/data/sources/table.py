"""Parquet, Arrow, Feather and CSV files with a column of pictures and a column of labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ffdist.data.arrays import is_picture
from ffdist.data.classes import encode_labels
from ffdist.data.column_names import Columns, found_columns, taken_columns_note
from ffdist.data.columns import column_samples, is_text, joined, plain_column
from ffdist.data.depth import Range
from ffdist.data.labels import Labels
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.name_groups import groups_by_name
from ffdist.data.sources.row_splits import row_splits
from ffdist.data.sources.shares import HoldOutOptions, Shares
from ffdist.data.sources.splits import SPLITS, TEST, TRAIN, SplitChoice
from ffdist.data.sources.table_files import labels_in, read, schema
from ffdist.data.sources.table_splits import find_files, quoted
from ffdist.data.sources.texts import base_of
from ffdist.errors import ConfigError, DataError, setting


class TableSource(DataSource):
    """One such file, or a folder of them, whose names may say which split they are (`table_splits.find_files`).

    Pictures are encoded, or files that a column of paths names, from the table's folder. Labels are texts or whole
    numbers; those that occur become 0..K-1 in sorted order, unless metadata name K classes.
    columns: those of samples and labels, and of groups that stay in one split. texts: as in `find_files`. value_range:
    black and white of arrays of more than 8 bits.
    Raises DataError for a file that cannot be read, a column that is not there, and what `columns` refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Columns,
        choice: SplitChoice,
        holding: HoldOutOptions,
        texts: Mapping[Path, str] | None = None,
        value_range: Range | None = None,
    ) -> None:
        found = find_files(path, choice, texts)
        self.name = path.resolve().stem
        self.files = found.splits
        self.value_range = value_range
        first = TRAIN if TRAIN in self.files else TEST
        self.columns = found_columns(schema(self.files[first][0]).names, columns)
        labels = {split: self.labels_of(files, found.listing) for split, files in self.files.items()}
        self.classes, self.labels = encode_labels(labels, None, renumber=True)
        by_name = len(self.files) == 1 and choice.splits is None and not choice.whole
        others = [name for name in self.columns if name]
        self.rows = row_splits(self.files[first], others) if by_name and first == TRAIN else None
        counts = {split: len(labels) for split, labels in self.labels.items()}
        self.root = path if path.is_dir() else path.parent
        groups = groups_in(self.files[first], columns.group) if columns.group else None
        if holding.group_pattern is not None:
            groups = groups_by_name(holding.group_pattern, self.names(self.files[first], holding.group_pattern), path)
        train, notes = self.labels[first], []
        if self.rows is not None:
            counts = self.rows.counts()
            train, groups = self.rows.train(train, self.classes), None if groups is None else self.rows.of_train(groups)
            notes = [
                f"rows are in splits by the column '{self.rows.column}'; to take all as one, "
                f"{setting('splits', 'none')}"
            ]
        named = f"column '{columns.group}'" if columns.group else holding.named
        self.shares = Shares(counts, train, holding, groups, named)
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.left_out = found.listing.left_out
        if texts is not None:
            names = first_names(found.listing.name(file) for files in self.files.values() for file in files)
            notes.append(f"pictures and classes are those of {names}")
        if text := taken_columns_note(self.columns, columns, (setting("image_column"), setting("label_column"))):
            notes.append(text)
        self.notes = [*found.notes, *notes, *self.shares.notes]

    def labels_of(self, files: list[Path], listing: Listing) -> Labels:
        """The labels in the files of one split; files without rows, which a parallel writer leaves, are left out."""
        label = self.columns.label
        filled = [file for file in files if any(map(len, read(file, label)))]
        if not filled:
            raise DataError(
                "a table has no rows",
                where=first_names(files),
                expected="one row or more",
                got="none",
                remedy=f"leave it out: {setting('ignore', quoted(listing, files))}",
            )
        for file in files:
            if file not in filled:
                listing.leave(listing.name(file), "without rows")
        where = files[0] if len(files) == 1 else listing.root
        files[:] = filled
        return joined([labels_in(file, label) for file in files], str(where))

    def items(self) -> Iterator[Item]:
        for split, files in self.files.items():
            labels = self.labels[split].tolist()
            places = zip(labels, self.places(split, len(labels)), strict=True)
            for file in files:
                first, base = 0, self.base(file)
                for column in read(file, self.columns.image):
                    cells = column_samples(column, file, first, base, lenient=True, value_range=self.value_range)
                    for place, data in enumerate(cells):
                        label, share = next(places)
                        named = f": {data}" if isinstance(data, Path) else ""
                        where = f"{file}, row {first + place}{named}"
                        refuse_arrays(data, where)
                        yield Item(share, label, data, where)
                    first += len(column)

    def files_elsewhere(self) -> list[Path]:
        """The files that a column of paths names."""
        return [path for files in self.files.values() for file in files for path in self.paths(file)]

    def paths(self, file: Path) -> Iterator[Path]:
        """The picture files that a table's column of paths names; none for a table of another kind."""
        if names_files(self.kind(file)):
            first, base = 0, self.base(file)
            for column in read(file, self.columns.image):
                cells = column_samples(column, file, first, base, lenient=True)
                yield from (cell for cell in cells if isinstance(cell, Path))
                first += len(column)

    def kind(self, file: Path) -> pa.DataType:
        """The Arrow type of its samples; null where there is no such column, which reading it tells."""
        known = schema(file)
        place = known.get_field_index(self.columns.image)
        return known.field(place).type if place >= 0 else pa.null()

    def base(self, file: Path) -> Path:
        """The folder from which a file's paths begin."""
        kind = self.kind(file)
        named = names_files(kind) and not pa.types.is_struct(kind)
        return (base_of(file, self.root, self.columns) if named else None) or file.parent

    def names(self, files: Sequence[Path], pattern: str) -> Iterator[str]:
        """The pictures' paths, a row each. Raises ConfigError where not every row has one."""
        for file in files:
            found = [os.path.relpath(path, self.root) for path in self.paths(file)]
            if len(found) < sum(map(len, read(file, self.columns.label))) or self.columns.group:
                raise ConfigError(
                    "groups are given by a column" if self.columns.group else "rows have no names that tell groups",
                    where=file,
                    expected="a column of paths",
                    got=setting("group_pattern", pattern),
                    remedy=f"leave it out, or name a column of groups with {setting('group_column')}",
                )
            yield from found

    def places(self, split: str, rows: int) -> Iterator[str]:
        """The split of each row of some files."""
        trained = count()
        for row in range(rows):
            own = split if self.rows is None else SPLITS[self.rows.places[row]]
            yield self.shares.split(next(trained)) if own == TRAIN else own


def groups_in(files: Sequence[Path], name: str) -> np.ndarray:
    """The group of each row of some files, int64 [N]. Raises DataError for a row without one."""
    found: dict[object, int] = {}
    numbers = []
    for file in files:
        row = 0
        for column in read(file, name):
            for value in plain_column(column).to_pylist():
                if value is None or value == "" or value != value:
                    raise DataError(
                        "a group is missing",
                        where=f"{file}, row {row}, column {name}",
                        got=repr(value),
                        expected="what tells whose sample it is",
                        remedy="leave such rows out",
                    )
                numbers.append(found.setdefault(value, len(found)))
                row += 1
    if len(found) < 2:
        raise DataError(
            "there is one group only",
            where=f"{first_names(files)}, column {name}",
            expected="2 groups or more",
            got=first_names(found),
            remedy=f"leave out {setting('group_column')}",
        )
    return np.array(numbers, np.int64)


def names_files(kind: pa.DataType) -> bool:
    """True if a column may name files."""
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    return is_text(kind) or pa.types.is_string_view(kind) or pa.types.is_struct(kind)


def refuse_arrays(data: Any, where: str) -> None:
    """Raises DataError for numbers that are no picture."""
    if isinstance(data, np.ndarray) and not is_picture(data):
        raise DataError(
            f"{data.dtype} {list(data.shape)} is not a picture",
            where=where,
            expected="encoded pictures, paths, or whole numbers 0..255 as [H][W] or [H][W][3]",
            got=f"{data.dtype} {list(data.shape)}",
            remedy="arrays of floats need no preparation: `ffdist train --data FILE`, or from Python: "
            "ffdist.from_arrow(table, image=..., label=..., normalize=True)",
        )
