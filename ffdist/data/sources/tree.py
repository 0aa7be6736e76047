"""A folder of pictures for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ffdist.data.sources.base import Item, Shares, Source
from ffdist.errors import DataError

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The first of these that is there is the test split."""


class Tree(Source):
    """root/CLASS/**/picture, or the same below root/train and root/test (or val).

    test_fraction: the share of each class that becomes the test split where the tree has none. class_name: from the
    name of a class's folder. order: class names that come first, in this order.
    Raises DataError for a tree without classes, an empty class, or a class that is only in the test split.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str = "",
        test_fraction: float = 0.2,
        seed: int = 0,
        class_name: Callable[[str], str] = str,
        order: Sequence[str] = (),
    ) -> None:
        self.name = name or root.resolve().name
        self.folders = {split: {class_name(d.name): d for d in folders(base)} for split, base in splits(root).items()}
        rank = {name: place for place, name in enumerate(order)}
        self.classes = sorted(self.folders["train"], key=lambda name: (rank.get(name, len(rank)), name))
        if not self.classes:
            raise DataError("there is no class folder", where=root, expected="FOLDER/CLASS/picture",
                            remedy="give the folder that holds one folder of pictures a class")  # fmt: skip
        unknown = sorted(set(self.folders.get("test", {})) - set(self.classes))
        if unknown:
            raise DataError("a class is only in the test split", where=self.folders["test"][unknown[0]],
                            expected=self.classes, got=unknown[0])  # fmt: skip
        sizes = {split: [len(pictures(of.get(k))) for k in self.classes] for split, of in self.folders.items()}
        for label, size in zip(self.classes, sizes["train"], strict=True):
            if not size:
                raise DataError("a class has no pictures", where=self.folders["train"][label],
                                expected=" ".join(PICTURES), remedy="remove the folder, or fill it")  # fmt: skip
        self.counts = {split: sum(of) for split, of in sizes.items()}
        labels = np.repeat(np.arange(len(self.classes)), sizes["train"])
        self.shares = Shares(labels, 0 if "test" in self.counts else test_fraction, seed)
        if "test" not in self.counts:
            self.counts = self.shares.counts

    def items(self) -> Iterator[Item]:
        for split, of in self.folders.items():
            row = 0
            for label, name in enumerate(self.classes):
                for path in pictures(of.get(name)):
                    yield Item(self.shares.split(row) if split == "train" else split, label, path, str(path))
                    row += 1


def splits(root: Path) -> dict[str, Path]:
    """The folder of each split; the root itself where it holds classes and not splits."""
    names = {folder.name for folder in folders(root)}
    if "train" not in names or names - {"train", *TEST_FOLDERS}:
        return {"train": root}
    test = next((name for name in TEST_FOLDERS if name in names), None)
    return {"train": root / "train"} | ({"test": root / test} if test else {})


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures(folder: Path | None) -> list[Path]:
    """The pictures of one class at any depth, sorted; listed anew each time, so that no list of all is ever held."""
    found = folder.rglob("*") if folder else ()
    return sorted(path for path in found if path.suffix.lower() in PICTURES and not path.name.startswith("."))
