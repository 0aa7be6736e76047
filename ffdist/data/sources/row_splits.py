"""A column of a table that says which split each row is in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ffdist.data.columns import plain_column
from ffdist.data.sources.listing import first_names
from ffdist.data.sources.splits import SPLITS, TRAIN, VALIDATION, mark
from ffdist.data.sources.table_files import read, schema
from ffdist.errors import DataError, setting

NAMES = frozenset({"split", "splits", "subset", "partition", "usage", "set", "phase", "stage"})
"""Names of columns that can mean nothing else, in small letters."""
NUMBERED = frozenset({"split", "splits", "subset", "partition", "data_split"})
"""Names of those whose numbers, too, can mean nothing else: CelebA has 0, 1 and 2."""
TRUTHS = frozenset({"0", "1", "true", "false", "t", "f", "yes", "no", "y", "n"})
"""Truth values as texts have them, in small letters."""
MANY = 16
"""More different texts than a column of splits has."""
WHOLE = f"to take all rows as one, {setting('splits', 'none')}"


class RowSplits(NamedTuple):
    """The split of each row of some files, in the rows' order."""

    column: str
    places: np.ndarray
    """int8 [N], in `SPLITS`."""

    def counts(self) -> dict[str, int]:
        """Rows of each split that has some."""
        rows = np.bincount(self.places, minlength=len(SPLITS)).tolist()
        return {split: count for split, count in zip(SPLITS, rows, strict=True) if count}

    @property
    def trained(self) -> np.ndarray:
        """bool [N]: the rows of the training split."""
        return self.places == SPLITS.index(TRAIN)

    def of_train(self, groups: np.ndarray) -> np.ndarray:
        """The groups of the rows whose labels `train` gives."""
        return groups[self.trained] if self.trained.any() else groups

    def train(self, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """The labels of the training rows (of the test rows where there are none), int [N].

        Raises DataError for a class that only other rows have.
        """
        trained = self.trained
        if not trained.any():
            return labels
        only = np.setdiff1d(labels, labels[trained])
        if len(only):
            raise DataError(
                "a class is in no training row",
                where=f"column {self.column}",
                got=first_names(classes[label] for label in only),
                remedy="leave its rows out",
            )
        return labels[trained]


def row_splits(files: Sequence[Path], others: Sequence[str]) -> RowSplits | None:
    """The split of every row, where the files have a column that says it; others: the columns that hold something else.

    Raises DataError for such a column with values that are no split, more than one such column, and a column of truth
    values that is called like a split.
    """
    kinds = {field.name: field.type for field in schema(files[0]) if field.name not in others}
    found = {name: texts for name, kind in kinds.items() if (texts := split_texts(files, name, kind))}
    for name, kind in kinds.items() if not found else ():
        speaks = mark(name)
        numbered = name.strip().casefold() in NUMBERED
        if not (is_called_like_split(name) or (pa.types.is_boolean(kind) and speaks and speaks.split)):
            continue
        values = few_values(column for file in files for column in read(file, name)) or set()
        truths = are_truths(values)
        if truths or (numbered and values and all(map(str.isdecimal, values)) and len(values) <= len(SPLITS)):
            raise DataError(
                f"a column of {'truth values' if truths else 'numbers'} is called like a split",
                where=files[0],
                got=f"{name}, with {first_names(sorted(values))}",
                expected="a column 'split' with train, validation and test",
                remedy=f"write one, or put the rows into files of their own; {WHOLE}",
            )
    if len(found) > 1:
        raise DataError(
            "several columns say which split a row is in",
            where=files[0],
            got=", ".join(found),
            remedy=f"keep one of them; {WHOLE}",
        )
    for name, texts in found.items():
        return RowSplits(name, split_of_rows(files, name, texts))
    return None


def is_called_like_split(name: str) -> bool:
    """True if a column's name says nothing but splits: split, is_train, test set; but not test_result."""
    found = mark(re.sub(r"^(is|in|for|use|used)(?=[\W_]|[A-Z])", "", name.strip()))
    return name.strip().casefold() in NUMBERED or (found is not None and found.alone and found.split is not None)


def few_values(chunks: Iterable[pa.Array]) -> set[str] | None:
    """The values of a column as texts, without nulls; None where there are many, or others than
    numbers, truths and texts."""
    values: set[str] = set()
    for chunk in chunks:
        known = [value for value in plain_column(chunk).to_pylist() if value is not None]
        if not all(isinstance(value, (bool, int, float, str)) for value in known):
            return None
        whole = {int(v) if isinstance(v, float) and v.is_integer() else v for v in known}
        values |= {str(value).strip() for value in whole}
        if len(values) > MANY:
            return None
    return values - {""}


def are_truths(values: set[str]) -> bool:
    """True if they are truth values, of both kinds."""
    return len(values) > 1 and {value.casefold() for value in values} <= TRUTHS


def check_one_split(table: pa.Table, others: Sequence[str], where: str) -> None:
    """Raises DataError where a column of a table in memory says that its rows are of several splits. others: the
    columns that hold something else."""
    for name in table.column_names:
        speaks = name.strip().casefold() in NAMES or is_called_like_split(name)
        if name in others or not speaks or table.column_names.count(name) > 1:
            continue
        values = few_values(table[name].chunks) or set()
        splits = {found.split for value in values if (found := mark(value)) and found.split}
        if len(splits) > 1 or (are_truths(values) and is_called_like_split(name)):
            raise DataError(
                "a table has rows of several splits",
                where=where,
                expected="the rows of one split",
                got=f"column {name}, with {first_names(sorted(values))}",
                remedy=f"give each split by itself: {{'train': table[table[{name!r}] == ...], 'test': ...}}; or leave "
                "the column out where all rows are for training",
            )


def split_texts(files: Sequence[Path], name: str, kind: pa.DataType) -> Mapping[str, str] | None:
    """The split that each text in a column stands for; None where it is no column of splits."""
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return None
    surely = name.casefold() in NAMES
    texts: dict[str, str] = {}
    strange: set[str | None] = set()
    for file in files:
        for column in read(file, name):
            for text in set(column.to_pylist()) - set(texts) - strange:
                found = mark(text) if text else None
                if found is not None and found.split is not None:
                    texts[text] = found.split
                else:
                    strange.add(text)
            if len(texts) + len(strange) > MANY or (strange and not surely):
                return None
    if strange and texts:
        raise DataError(
            "a row is in no split",
            where=f"column {name} of {files[0]}",
            expected=", ".join(sorted(texts)),
            got=", ".join(text or "nothing" for text in strange),
            remedy=f"leave such rows out; {WHOLE}",
        )
    return texts if surely or len(set(texts.values())) > 1 else None


def split_of_rows(files: Sequence[Path], name: str, texts: Mapping[str, str]) -> np.ndarray:
    """int8 [N]. Raises DataError where rows are for validation and none for training."""
    places = {text: SPLITS.index(split) for text, split in texts.items()}
    rows = [places[text] for file in files for column in read(file, name) for text in column.to_pylist()]
    if VALIDATION in texts.values() and TRAIN not in texts.values():
        raise DataError(
            "there is no training split",
            where=f"column {name}",
            expected="train",
            got=", ".join(sorted(texts)),
            remedy=WHOLE,
        )
    return np.array(rows, np.int8)
