"""A folder of pictures for each class."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ffdist.data.classes import alike_names_note
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.layout import find_layout, quoted
from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.name_groups import groups_by_name
from ffdist.data.sources.shares import HoldOutOptions, Shares
from ffdist.data.sources.splits import FILLERS, TEST, TRAIN, SplitChoice
from ffdist.errors import DataError, setting

Folders = dict[str, list[Path]]
"""The folders of each class; more than one where several make a split."""


class Tree(DataSource):
    """root/CLASS/**/picture, or the same below root/train, root/validation and root/test, whatever they are called.

    holding: what is held out where the tree has no such splits.
    choice: what a user says of the folders. class_name: from the name of a class's folder. order: class names that come
    first, in this order.
    Raises DataError for what `find_layout` refuses, folders that cannot be looked into, an empty class, and a class
    that the training split does not have.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str = "",
        holding: HoldOutOptions | None = None,
        choice: SplitChoice | None = None,
        class_name: Callable[[str], str] = str,
        order: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.name = name or root.resolve().name
        self.choice = choice or SplitChoice()
        listing = Listing(root, self.choice)
        layout = find_layout(listing)
        self.folders = {
            split: by_class(members, lambda folder: class_name(layout.class_of(folder)))
            for split, members in layout.classes.items()
        }
        first = TRAIN if TRAIN in self.folders else TEST
        rank = {known: place for place, known in enumerate(order)}
        self.classes = sorted(self.folders[first], key=lambda known: (rank.get(known, len(rank)), known))
        check_same_classes(listing, self.folders, self.classes, within=layout.within)
        sizes = {
            split: [sum(len(listing.pictures(f)) for f in members.get(k, ())) for k in self.classes]
            for split, members in self.folders.items()
        }
        listing.check()
        self.choice.check_used(root)
        check_no_empty_split(listing, self.folders, sizes)
        empty = [self.folders[first][k] for k, size in zip(self.classes, sizes[first], strict=True) if not size]
        if empty:
            raise DataError(
                "a class has no pictures" if len(empty) == 1 else f"{len(empty)} classes have no pictures",
                where=first_names(folder for members in empty for folder in members),
                expected="pictures that can be read",
                got=first_names(f"{left.count:,} {left.what}: {left.why}" for left in listing.left_out) or None,
                remedy=f"fill the folder, remove it, or leave it out with {setting('ignore', 'NAME')}",
            )
        counts = {split: sum(per_class) for split, per_class in sizes.items()}
        labels = np.repeat(np.arange(len(self.classes)), sizes[first])
        holding = holding or HoldOutOptions()
        groups = self.groups(listing.quiet(), holding.group_pattern, first)
        self.shares = Shares(counts, labels, holding, groups, holding.named)
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.notes = [*layout.notes, *self.shares.notes, *missing(sizes, self.classes, first)]
        self.notes += [text for each in (alike_names_note, no_classes_note) if (text := each(self.classes))]
        self.left_out = listing.left_out

    def groups(self, listing: Listing, pattern: str | None, split: str) -> np.ndarray | None:
        """The groups of a split's pictures, by their paths below the folder of their class; None where nobody asks."""
        if pattern is None:
            return None
        folders = [folder for name in self.classes for folder in self.folders[split].get(name, ())]
        names = (path.relative_to(folder).as_posix() for folder in folders for path in listing.pictures(folder))
        return groups_by_name(pattern, names, self.root)

    def items(self) -> Iterator[Item]:
        listing = Listing(self.root, self.choice)  # lists anew, so that no list of all pictures is ever held
        for split, members in self.folders.items():
            row = 0
            for label, name in enumerate(self.classes):
                for path in (path for folder in members.get(name, ()) for path in listing.pictures(folder)):
                    yield Item(self.shares.split(row) if split == TRAIN else split, label, path, str(path))
                    row += 1


def by_class(folders: Sequence[Path], class_of: Callable[[Path], str]) -> Folders:
    """The class folders by name, which is normalised: é as one code point or as two is the same class.

    Raises DataError for a name that is no text.
    """
    named: Folders = {}
    for folder in folders:
        name = class_of(folder)
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python spells bytes that are no text
            raise DataError(
                "the name of a class folder is no text",
                where=folder.parent,
                expected="UTF-8",
                got=os.fsencode(name),
                remedy="rename it",
            )
        named.setdefault(unicodedata.normalize("NFC", name), []).append(folder)
    return named


def check_no_empty_split(listing: Listing, folders: dict[str, Folders], sizes: dict[str, list[int]]) -> None:
    """Raises DataError for a split of empty class folders, beside one that has pictures."""
    for split, per_class in sizes.items():
        if not any(per_class) and any(map(any, sizes.values())):
            empty = [folder for some in folders[split].values() for folder in some]
            raise DataError(
                f"the {split} split has no pictures",
                where=first_names(empty),
                expected="pictures that can be read",
                remedy=f"fill the folders, or leave them out: {setting('ignore', quoted(listing, parents(empty)))}",
            )


def parents(folders: Sequence[Path]) -> list[Path]:
    """The folders that they lie in, each once."""
    return list(dict.fromkeys(folder.parent for folder in folders))


def check_same_classes(
    listing: Listing, folders: dict[str, Folders], classes: Sequence[str], *, within: bool = False
) -> None:
    """Raises DataError for classes that only another split has, and two folders of one class in one folder, unless the
    splits lie within the classes."""
    for split, members in folders.items():
        for name, found in members.items():
            if not within and len({folder.parent for folder in found}) < len(found):
                raise DataError(
                    "two folders are called like one class",
                    where=first_names(found),
                    got=name,
                    remedy="put them together, or rename one",
                )
        unknown = sorted(set(members) - set(classes))
        if unknown:
            alike = {comparable(name): name for name in classes}
            paths = [folder for name in unknown for folder in members[name]]
            left = paths if len(unknown) < len(members) else parents(paths)
            near = [f"{name} for {alike[comparable(name)]}" for name in unknown if comparable(name) in alike]
            other = f"rename it, or leave it out: {setting('ignore', quoted(listing, left))}"
            raise DataError(
                f"a class is only in the {split} split",
                where=first_names(paths),
                expected=first_names(classes),
                got=first_names(unknown),
                remedy=f"rename {first_names(near)}" if near else other,
            )


def comparable(name: str) -> str:
    """A name for comparisons: letters and digits alone, in one case."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


DATE = r"(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?(0[1-9]|[12]\d|3[01]))?)?"
PARTS = {*FILLERS, "batch", "camera", "chunk", "day", "fold", "patient", "scan", "session", "shard", "subject", "week"}
PART = rf"({'|'.join(sorted(PARTS))})[-_. ]*\d+"
UNLIKELY = {"years or dates": re.compile(DATE), "parts": re.compile(PART, re.IGNORECASE)}
"""What folders are called by that hold pictures of one time or one sitting, rather than of one class."""


def no_classes_note(names: Sequence[str]) -> str | None:
    """A note that folders are taken for classes, where all are called like something else; None for others."""
    for what, pattern in UNLIKELY.items():
        if all(pattern.fullmatch(name) for name in names):
            return (
                f"the folders are taken for classes, though they are called like {what}: {first_names(names)}; "
                "if they are none, put each picture into a folder that is called like its class, or give a table of "
                "paths and labels"
            )
    return None


def missing(sizes: dict[str, list[int]], classes: Sequence[str], first: str) -> list[str]:
    """A note for each split that has not all classes."""
    lacking = {
        split: [name for name, size in zip(classes, per_class, strict=True) if not size]
        for split, per_class in sizes.items()
        if split != first
    }
    return [f"{split} has no picture of {first_names(names)}" for split, names in lacking.items() if names]
