"""What data sets are prepared from: known names, folders of pictures, tables."""

from __future__ import annotations

import difflib
from pathlib import Path

from ffdist.data.sources.base import Item, Source
from ffdist.data.sources.known import KNOWN, open_known
from ffdist.data.sources.table import SUFFIXES, Table
from ffdist.data.sources.tree import Tree
from ffdist.errors import DataError

__all__ = ["KNOWN", "Item", "Source", "open_source"]


def open_source(
    source: str, *, root: Path, download: bool, image_column: str, label_column: str, test_fraction: float, seed: int
) -> Source:
    """A known name, looked for in torchvision's `root`; or the path of a table, a folder of tables, or a tree.

    Raises DataError for anything else, with the nearest known name.
    """
    if source in KNOWN:
        return open_known(source, root, download)
    path = Path(source)
    if not path.exists():
        near = difflib.get_close_matches(source, KNOWN, 1)
        raise DataError("unknown source of data", expected=f"{', '.join(KNOWN)}, a folder of pictures, or a table",
                        got=source, remedy=f"did you mean {near[0]}?" if near else None)  # fmt: skip
    if path.is_file() or any(file.suffix in SUFFIXES for file in path.iterdir()):
        return Table(path, image=image_column, label=label_column, test_fraction=test_fraction, seed=seed)
    return Tree(path, test_fraction=test_fraction, seed=seed)
