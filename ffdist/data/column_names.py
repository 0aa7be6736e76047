"""Find the columns of a table that hold samples and labels, where they are not given and have no usual names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

IMAGE, LABEL = "image", "label"
"""The usual columns of a table."""
IMAGES = (
    "images",
    "img",
    "imgs",
    "picture",
    "pictures",
    "pic",
    "photo",
    "photos",
    "pixels",
    "file",
    "files",
    "file_name",
    "filename",
    "filenames",
    "file_path",
    "filepath",
    "path",
    "paths",
    "image_path",
    "img_path",
    "image_file",
    "image_name",
    "img_name",
    "imagepath",
    "imagename",
    "jpg",
    "jpeg",
    "png",
)
LABELS = (
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "y",
    "category",
    "class_name",
    "classname",
    "fine_label",
    "cls",
    "species",
    "label_name",
)


class Columns(NamedTuple):
    """The names of a table's columns, by what they hold."""

    image: str = IMAGE
    label: str = LABEL
    group: str | None = None
    """Whose equal values stay in one split."""


def found_columns(names: Sequence[str], columns: Columns) -> Columns:
    """`columns`, or in place of a usual one that is not there the only one that is called alike, whatever its case."""
    image, label = columns.image, columns.label
    if image == IMAGE and image not in names:
        image = single_match(names, (IMAGE, *IMAGES)) or image
    if label == LABEL and label not in names:
        label = single_match([name for name in names if name != image], (LABEL, *LABELS)) or label
    return Columns(image, label, columns.group)


def single_match(names: Sequence[str], known: Sequence[str]) -> str | None:
    found = [name for name in names if name.strip().casefold() in known]
    return found[0] if len(found) == 1 else None


def taken_columns_note(found: Columns, columns: Columns, flags: Sequence[str]) -> str | None:
    """A note on columns that were found; flags: what says otherwise, for samples and labels."""
    texts = [
        (f"column '{now}' is taken for {what}", flag)
        for now, before, what, flag in zip(found, columns, ("the samples", "the labels"), flags, strict=False)
        if now != before
    ]
    if not texts:
        return None
    return f"{' and '.join(text for text, _ in texts)}; to say otherwise: {', '.join(flag for _, flag in texts)}"
