"""Remedies for pictures whose classes a table beside them may say."""

from __future__ import annotations

import shlex
from pathlib import Path

from ffdist.data.formats import endings
from ffdist.data.sources.splits import TRAIN, mark
from ffdist.data.sources.table_files import LABELS, TEXTS, number_table_remedy, read, schema
from ffdist.errors import DataError


def table_hint(root: Path) -> str:
    """The command that prepares the table, with its columns where they are plain to see; "" where there is none."""
    order = {TRAIN: 0, None: 1}
    found = [path for path in (root.iterdir() if root.is_dir() else ()) if path.suffix.lower() in TEXTS]
    tables = sorted(
        found, key=lambda path: (order.get(found_mark.split if (found_mark := mark(path.stem)) else None, 2), path)
    )
    if not tables:
        return ""
    try:
        image, label = columns(tables[0])
    except DataError:
        image, label = "NAME", "NAME"
    if image == "NAME" and (numbers := number_table_remedy(tables[0])):
        return f"; {numbers}"
    return (
        f"; or prepare the table that has their names and classes: ffdist data prepare {shlex.quote(str(tables[0]))} "
        f"--image-column {shlex.quote(image)} --label-column {shlex.quote(label)}"
    )


def columns(table: Path) -> tuple[str, str]:
    """The column whose first cell ends as pictures do, and the one called label or class, or the only other one."""
    names = [name for name in schema(table).names if name]
    first = {name: next((cell for chunk in read(table, name) for cell in chunk.to_pylist()), "") for name in names}
    image = next((name for name, cell in first.items() if Path(cell).suffix.lower() in endings()), "NAME")
    others = [name for name in names if name != image]
    labels = [name for name in others if name.casefold() in LABELS]
    return image, (labels or others)[0] if len(labels or others) == 1 else "NAME"
