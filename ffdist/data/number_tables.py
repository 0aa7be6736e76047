"""Files of plain numbers, as a data set in memory: tables whose columns are features, and NumPy's arrays of floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from ffdist.data.arrays import float_moments
from ffdist.data.classes import encode_labels
from ffdist.data.column_names import found_columns, taken_columns_note
from ffdist.data.columns import column_labels, is_list, joined, names_in
from ffdist.data.duplicates import note_duplicates
from ffdist.data.images import ArraySplit, Images
from ffdist.data.labels import Labels
from ffdist.data.numbers import describe_columns, feature_names, features
from ffdist.data.preparation import Preparation
from ffdist.data.sources.array_files import ArrayFiles, holds_arrays
from ffdist.data.sources.listing import Listing
from ffdist.data.sources.name_groups import refuse_pattern
from ffdist.data.sources.row_splits import is_called_like_split, row_splits
from ffdist.data.sources.shares import Shares
from ffdist.data.sources.splits import SPLITS, TEST, TRAIN, choice, read_splits
from ffdist.data.sources.table import groups_in
from ffdist.data.sources.table_files import LINES, TEXTS, header, ipc, numerals, readable, schema, separator
from ffdist.data.sources.table_splits import SUFFIXES, find_files
from ffdist.errors import DataError, setting
from ffdist.notes import listed, note


def open_numbers(path: Path, preparation: Preparation) -> Images | None:
    """A data set of plain numbers, scaled by the training split's mean and deviation; None for another kind of source.

    Raises DataError for a table without the labels, and for what is no number, naming file, column and row.
    """
    if holds_arrays(path):
        arrays = ArrayFiles(
            path, columns=preparation.columns, holding=preparation.holding, value_range=preparation.value_range
        )
        return None if arrays.pictures else images_of_arrays(arrays, preparation)
    if not holds_table(path):
        return None
    own = choice(path, read_splits(preparation.splits), preparation.ignore)
    texts = {} if path.is_file() else {file: "" for file in Listing(path, own).listed(path)[1] if is_text(file)}
    found = find_files(path, own, texts or None)
    first = TRAIN if TRAIN in found.splits else TEST
    known = schema(found.splits[first][0])
    columns = found_columns(known.names, preparation.columns)
    if columns.image in known.names and not holds_floats(known.field(columns.image).type):
        return None
    if columns.label not in known.names:
        raise DataError(
            "a table lacks a column",
            where=path,
            expected=columns.label,
            got=listed(known.names, 12),
            remedy=f"name it with {setting('label_column')}",
        )
    tables = {split: [whole(file, columns.label) for file in files] for split, files in found.splits.items()}
    if not any(len(table) for table in tables[first]):
        raise DataError("a table has no rows", where=path, expected="one row or more", got="none")
    head = tables[first][0].schema
    names = [columns.image] if columns.image in known.names else feature_names(head, columns, preparation.drop_columns)
    for name in preparation.drop_columns:
        if name not in known.names:
            raise DataError("there is no such column to drop", where=path, expected=listed(known.names, 12), got=name)
    for split, files in found.splits.items():
        check_columns(tables[split], files, (columns.label, *names), head)
    samples, labels = {}, {}
    for split, files in found.splits.items():
        parts = [features(table, names, file, DROP) for table, file in zip(tables[split], files, strict=True)]
        samples[split] = np.concatenate(parts)
        labels[split] = labels_of(tables[split], files, columns.label)
    described = describe_columns(names, samples[first], columns.label)
    note(f"{path}: {described}; each is scaled by mean and deviation of the training split")
    flags = setting("image_column"), setting("label_column")
    if text := taken_columns_note(columns, preparation.columns._replace(image=columns.image), flags):
        note(f"{path}: {text}")
    whole_rows = len(found.splits) == 1 and first == TRAIN and own.splits is None and not own.whole
    others = (columns.label, *(name for name in names if not is_called_like_split(name)))
    rows = row_splits(found.splits[first], others) if whole_rows else None
    groups = groups_in(found.splits[first], columns.group) if columns.group else None
    return images_by_split(path, preparation, samples, labels, groups, rows.places if rows else None)


def check_columns(tables: Sequence[pa.Table], files: Sequence[Path], needed: Sequence[str], first: pa.Schema) -> None:
    """Raises DataError for a table without one of the needed columns; a note names those that the first table lacks."""
    for table, file in zip(tables, files, strict=True):
        if lacking := [name for name in needed if name not in table.column_names]:
            own_names = listed(table.column_names, 12)
            raise DataError("a table lacks a column", where=file, expected=listed(lacking, 12), got=own_names)
        if more := [name for name in table.column_names if name not in first.names]:
            note(f"{file}: left out, since the first table has no such column: {listed(more, 12)}")


def images_of_arrays(arrays: ArrayFiles, preparation: Preparation) -> Images:
    """A data set of NumPy's arrays of numbers, scaled by mean and deviation; a note says so."""
    samples = {split: arrays.floats(split) for split in arrays.labels}
    shape = list(next(iter(samples.values())).shape[1:])
    note(f"{arrays.path}: samples of numbers {shape}, scaled by mean and deviation of the training split")
    return images_by_split(arrays.path, preparation, samples, arrays.found, arrays.groups, None)


def images_by_split(
    path: Path,
    preparation: Preparation,
    samples: Mapping[str, np.ndarray],
    labels: Mapping[str, Labels],
    groups: np.ndarray | None,
    places: np.ndarray | None,
) -> Images:
    """The rows by their splits, with what is held out. places: of each row of the only split, in `SPLITS`, where a
    column says it."""
    refuse_pattern(preparation.group_pattern, path)
    classes, codes = encode_labels(labels, None, renumber=True)
    if len(classes) < 2:
        raise DataError("there is one class only", where=path, expected="2 classes or more", got=classes[0])
    if places is not None:
        rows = {split: places == SPLITS.index(split) for split in SPLITS if (places == SPLITS.index(split)).any()}
        samples = {split: samples[TRAIN][row] for split, row in rows.items()}
        groups = groups[rows[TRAIN]] if groups is not None and TRAIN in rows else groups
        codes = {split: codes[TRAIN][row] for split, row in rows.items()}
    first = TRAIN if TRAIN in samples else TEST
    counts = {split: len(each) for split, each in samples.items()}
    named = f"column '{preparation.group_column}'" if preparation.group_column else None
    shares = Shares(counts, codes[first], preparation.holding, groups, named)
    for text in shares.notes:
        note(f"{path}: {text}")
    splits = {split: (samples[split], codes[split]) for split in samples if split != TRAIN}
    if TRAIN in samples:
        for place, split in enumerate(SPLITS):
            rows = shares.places == place
            if rows.any():
                splits[split] = samples[TRAIN][rows], codes[TRAIN][rows]
    measured = splits[TRAIN][0] if TRAIN in splits else splits[TEST][0]
    mean, std = float_moments(measured)
    made = {split: ArraySplit(x, y) for split, (x, y) in splits.items()}
    empty = ArraySplit(np.empty((0, *measured.shape[1:]), np.float32), np.empty(0, np.int64))
    note_duplicates({split: each.samples for split, each in made.items()}, str(path))
    return Images(
        path.resolve().stem,
        made.get(TRAIN, empty),
        made.get(TEST),
        classes,
        measured.shape[1:],
        mean,
        std,
        validation=made.get("validation"),
    )


DROP = f"leave the column out: {setting('drop_columns', '{name}')}"


def holds_table(path: Path) -> bool:
    """True if it is a table, or a folder of such and of nothing else that could be meant."""
    if path.is_file():
        return path.suffix.lower() in (*SUFFIXES, *TEXTS)
    folders, files = Listing(path, choice(path)).listed(path) if path.is_dir() else ([], [])
    return not folders and any(file.suffix.lower() in (*SUFFIXES, *TEXTS) for file in files)


def is_text(file: Path) -> bool:
    return file.suffix.lower() in TEXTS


def holds_floats(kind: pa.DataType) -> bool:
    """True if a column holds lists of floating-point numbers, at any depth."""
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.value_type
    while is_list(kind):
        kind = kind.value_type
    return pa.types.is_floating(kind)


def whole(file: Path, label: str) -> pa.Table:
    """All columns of a file, with the types that its values have; labels of text as they are written."""
    suffix = file.suffix.lower()
    with readable(file):
        if suffix in LINES:
            return pyarrow.json.read_json(file)
        if suffix in TEXTS:
            with file.open(encoding="utf-8-sig") as text:
                parse = pyarrow.csv.ParseOptions(delimiter=separator(text.readline()), newlines_in_values=True)
            return pyarrow.csv.read_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(column_names=header(file), skip_rows=1),
                parse_options=parse,
                convert_options=pyarrow.csv.ConvertOptions(column_types={label: pa.string()}),
            )
        if suffix == ".parquet":
            return pq.read_table(file)
        with pa.OSFile(str(file)) as source:
            return ipc(source).read_all()


def labels_of(tables: list[pa.Table], files: list[Path], label: str) -> Labels:
    """The labels of one split."""
    found = []
    for table, file in zip(tables, files, strict=True):
        found_labels = column_labels(table[label].chunks, str(file), names_in(table.schema, label))
        found.append(numerals(found_labels) if file.suffix.lower() in TEXTS and found_labels.text else found_labels)
    return joined(found, str(files[0]))
