"""Imagenette: torchvision's folders, or the same tree with class names for folders."""

from __future__ import annotations

from pathlib import Path

from ffdist.data.sources.splits import SplitChoice
from ffdist.data.sources.tree import Tree

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""By WordNet's number, which is also their order, whatever the folders are called."""


def class_name(folder: str) -> str:
    return CLASSES.get(folder, folder.replace("_", " "))


def imagenette(folder: Path) -> Tree:
    names = list(CLASSES.values())
    test = {"test": ["val"]} if (folder / "val").is_dir() else {}  # what everybody tests on
    choice = SplitChoice({"train": ["train"], **test})
    return Tree(folder, name="imagenette", choice=choice, class_name=class_name, order=names)
