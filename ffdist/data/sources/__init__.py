"""Sources that data sets are prepared from: known names, folders of pictures, tables."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NoReturn

from ffdist.data.column_names import Columns
from ffdist.data.depth import Range
from ffdist.data.manifest import FORMAT, MANIFEST
from ffdist.data.sources.array_files import ArrayFiles, holds_arrays
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.hub import choice_of_card
from ffdist.data.sources.known import KNOWN, open_known
from ffdist.data.sources.name_groups import refuse_pattern
from ffdist.data.sources.shares import HoldOutOptions
from ffdist.data.sources.splits import SplitChoice
from ffdist.data.sources.table import TableSource
from ffdist.data.sources.table_hint import table_hint
from ffdist.data.sources.table_splits import holds_tables
from ffdist.data.sources.tars import Tars, holds_tars, is_tar
from ffdist.data.sources.texts import texts_in
from ffdist.data.sources.tree import Tree
from ffdist.errors import ConfigError, DataError, setting
from ffdist.folders import command
from ffdist.regular import read_bytes

ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")

__all__ = ["KNOWN", "DataSource", "Item", "SplitChoice", "open_source"]


def open_source(
    source: str,
    *,
    root: Path | None,
    download: bool,
    columns: Columns,
    choice: SplitChoice,
    holding: HoldOutOptions,
    value_range: Range | None = None,
) -> DataSource:
    """A known name, looked for in torchvision's `root`; or the path of a table, a folder of tables, or a tree.

    Raises DataError for anything else, with the nearest known name, and for a source of one class.
    """
    if source in KNOWN:
        assert root, "a known data set is looked for somewhere"
        check_known(source, choice, holding)
        check_no_columns(source, columns)
        known = open_known(source, root, download)
        if Path(source).exists():
            known.notes = [*known.notes, f"this is the data set called {source}, not the folder; that is ./{source}"]
        return known
    path = Path(source)
    check_source(path, source)
    opened = source_of_files(path, columns, choice_of_card(path, choice), holding, value_range)
    if len(opened.classes) < 2:
        raise DataError(
            "there is one class only",
            where=source,
            expected="2 classes or more",
            got=", ".join(opened.classes),
            remedy=f"give the folder that holds a folder of pictures for each class{table_hint(path)}",
        )
    return opened


def source_of_files(
    path: Path, columns: Columns, choice: SplitChoice, holding: HoldOutOptions, value_range: Range | None
) -> DataSource:
    """A table, a folder of tables, NumPy's files, tars, or a tree."""
    if holds_arrays(path):
        refuse_pattern(holding.group_pattern, path)
        arrays = ArrayFiles(path, columns=columns, holding=holding, value_range=value_range)
        return arrays if arrays.pictures else refuse_numbers(path)
    if holds_tars(path, choice):
        return Tars(path, columns=columns, choice=choice, holding=holding)
    of_table: dict[str, Any] = {"choice": choice, "holding": holding, "columns": columns, "value_range": value_range}
    if path.is_file() or holds_tables(path, choice):
        return TableSource(path, **of_table)
    texts = texts_in(path, choice, columns)
    usable = not all(texts.values())
    named = [pattern for patterns in (choice.splits or {}).values() for pattern in patterns]
    below = [text.relative_to(path).as_posix() for text, why in texts.items() if not why]
    by_name = any(SplitChoice().like(text, pattern) for text in below for pattern in named)
    if usable and (by_name or columns != Columns()):
        return TableSource(path, texts=texts, **of_table)
    check_no_columns(str(path), columns)
    try:
        tree = Tree(path, choice=choice, holding=holding)
    except DataError:
        if not usable:
            raise
        return TableSource(path, texts=texts, **of_table)
    if usable and len(tree.classes) < 2:
        return TableSource(path, texts=texts, **of_table)
    return tree


def refuse_numbers(path: Path) -> NoReturn:
    """Raises DataError for samples that are no pictures."""
    raise DataError(
        "plain numbers are not prepared: they are read as they are",
        where=path,
        expected="pictures of whole numbers, [N, H, W] or [N, H, W, C]",
        got="numbers",
        remedy=command("train", "--data", path, "--model", "mlp"),
    )


def check_known(source: str, choice: SplitChoice, holding: HoldOutOptions) -> None:
    """Raises ConfigError for settings of folders."""
    if holding.given_option or choice != SplitChoice():
        flag = setting(holding.given_option) if holding.given_option else f"{setting('splits')} and {setting('ignore')}"
        raise ConfigError(
            "a known data set has its own splits",
            where=f"{flag}, {source}",
            expected="a folder or file",
            got=source,
            remedy="leave it out",
        )


def check_no_columns(source: str, columns: Columns) -> None:
    """Raises ConfigError for settings of tables."""
    for name, given, usual in zip(Columns._fields, columns, Columns(), strict=True):
        if given != usual:
            flag = setting(f"{name}_column")
            raise ConfigError(
                "there is no table in the source, so it has no columns",
                where=f"{flag}, {source}",
                expected="a Parquet, Arrow, Feather or CSV file",
                got=given,
                remedy=f"leave it out{table_hint(Path(source))}",
            )


def check_source(path: Path, source: str) -> None:
    """Raises DataError for a path where nothing is, or what is prepared already."""
    try:
        path.lstat()
        is_there = path.exists()
    except OSError as error:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise DataError("the source cannot be looked at", where=source, got=error.strerror) from error
        is_there = False
    if not is_there:
        near = difflib.get_close_matches(source, KNOWN, 1)
        if source == "digits":
            raise DataError(
                "digits are embedded, and need no preparation", where=source, remedy="ffdist train --data digits"
            )
        raise DataError(
            "unknown source of data",
            expected=f"{', '.join(KNOWN)}, a folder of pictures, or a table",
            got=source,
            remedy=f"did you mean {near[0]}?" if near else None,
        )
    if not (path.is_file() or path.is_dir()):
        raise DataError(
            "neither a file nor a folder",
            where=source,
            expected="a folder of pictures, or a table",
            got="a device, pipe or socket",
        )
    if path.is_file() and path.suffix.lower() in ARCHIVES and not is_tar(path):
        raise DataError(
            "such archives are not read",
            where=source,
            expected="a folder, a table, a zip or a tar",
            remedy="unpack it, and give the folder",
        )
    try:
        text = read_bytes(path / MANIFEST)[:80] if path.is_dir() else b""
    except OSError:
        text = b""
    if FORMAT.encode() in text:
        raise DataError("the folder is prepared already", where=source, remedy=command("train", "--data", source))
