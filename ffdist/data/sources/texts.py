"""Files of text that name pictures and their classes, in a folder or below it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ffdist.data.column_names import Columns, found_columns
from ffdist.data.columns import file_named, is_file
from ffdist.data.formats import is_picture
from ffdist.data.sources.listing import Listing
from ffdist.data.sources.splits import SplitChoice
from ffdist.data.sources.table_files import TEXTS, read, schema
from ffdist.errors import DataError

LOOKED_AT = 8
"""Rows by which it is known from which folder paths begin."""


def texts_in(folder: Path, choice: SplitChoice, columns: Columns) -> dict[Path, str]:
    """The files of text in a folder, and of each why it says no classes of pictures, or "". Where none does, those in
    the folders below, as repositories have them, if they name half of the pictures there."""
    listing = Listing(folder, choice).quiet()
    found = {path: why_not(path, columns) for path in listing.listed(folder)[1] if path.suffix.lower() in TEXTS}
    if not all(found.values()):
        return found
    files = listing.files(folder)
    below = {path: why_not(path, columns) for path in files if path.suffix.lower() in TEXTS and path not in found}
    usable = [path for path, why in below.items() if not why and base_of(path, folder, columns)]
    if 2 * sum(rows(path, columns) for path in usable) < sum(map(is_picture, files)):
        usable = []  # such as lists that lie in some class's folder
    return found | {
        path: "" if path in usable else why or "it names few of the pictures" for path, why in below.items()
    }


def rows(path: Path, columns: Columns) -> int:
    """The number of rows of a table that names pictures."""
    return sum(map(len, read(path, found_columns(schema(path).names, columns).label)))


def why_not(path: Path, columns: Columns) -> str:
    """The reason that a file says no classes of pictures; "" where it does."""
    try:
        names = schema(path).names
    except DataError as error:
        return str(error.got)
    lacking = [name for name in found_columns(names, columns) if name and name not in names]
    return f"no column {', '.join(lacking)}" if lacking else ""


def base_of(path: Path, root: Path, columns: Columns) -> Path | None:
    """The folder from which a table's paths begin: its own, or one above it, up to the source's; None for neither."""
    image = found_columns(schema(path).names, columns).image
    cells = [
        str(cell) for cell in islice((cell for chunk in read(path, image) for cell in chunk.to_pylist()), LOOKED_AT)
    ]
    above = [folder for folder in path.parents if folder == root or folder.is_relative_to(root)]
    return next((folder for folder in above if any(is_file(file_named(cell, folder)) for cell in cells)), None)
