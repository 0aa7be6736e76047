"""The layout of a tree of folders: splits and classes.

Splits are known by their names (`splits.mark`). Once one folder is a split, all beside it must be: nothing is guessed.
"""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.split_folders import SplitFolders, given_splits, in_each, splits_within
from ffdist.data.sources.splits import FILLERS, SPLITS, TEST, TRAIN, VALIDATION, SplitMark, is_split, mark
from ffdist.data.sources.table_hint import table_hint
from ffdist.errors import DataError, setting

CLASSES = f"if these are classes, {setting('splits', 'none')}"


class FolderLayout(NamedTuple):
    """The folders of a tree that are splits and classes."""

    classes: dict[str, list[Path]]
    """The class folders of each split."""
    within: bool
    """Whether each class has the splits in it, CLASS/train/picture: then these are what `classes` has."""
    notes: list[str]
    """What a reader of names cannot be sure of."""

    def class_of(self, folder: Path) -> str:
        """The name of the class whose folder it is."""
        return folder.parent.name if self.within else folder.name


def find_layout(listing: Listing) -> FolderLayout:
    """Raises DataError for folders whose part is not clear, naming them, and for pictures in no class folder."""
    notes: list[str] = []
    given = listing.choice.splits is not None
    splits, within = given_splits(listing) if given else named_splits(listing, listing.root, notes)
    if TRAIN not in splits and VALIDATION in splits:
        raise DataError(
            "there is no training split",
            where=listing.root,
            expected="train",
            got=first_names(folder.name for members in splits.values() for folder in members),
            remedy=f"name one with {setting('splits', 'train=NAME test=NAME')}, or "
            f"{setting('splits', 'test=NAME')} for a set to evaluate only",
        )
    if within:
        return FolderLayout(splits, within, notes)
    classes = {
        split: [c for base in members for c in class_folders(listing, base)] for split, members in splits.items()
    }
    if not given and not listing.choice.whole:
        check_no_splits_within(listing, splits, classes)
    return FolderLayout(classes, within, notes)


def named_splits(listing: Listing, root: Path, notes: list[str]) -> SplitFolders:
    """The splits that folders' names say, below folders that hold nothing but one folder."""
    folders, files = listing.listed(root)
    if len(folders) == 1 and wraps(listing, folders[0]):
        notes.append(f"read from the folder {listing.name(folders[0])}")
        listing.leave_loose(root, files)
        return named_splits(listing, folders[0], notes)
    marks = {} if listing.choice.whole else {folder: found for folder in folders if (found := mark(folder.name))}
    if not any(found.alone or holds_classes(listing, folder) for folder, found in marks.items()):
        within = None if listing.choice.whole else splits_within(listing, folders, notes)
        if within is not None:
            listing.leave_loose(root, files)
            return SplitFolders(within, within=True)
        check_classes(listing, folders, marks, notes)
        return SplitFolders({TRAIN: [root]})
    listing.leave_loose(root, files)
    check_all_splits(listing, folders, marks)
    splits: dict[str, list[Path]] = {}
    for split in SPLITS:
        mine = [folder for folder, found in marks.items() if found.split == split]
        if len(mine) > 1:
            options = " ".join(f"{found.split}={quoted(listing, [folder])}" for folder, found in marks.items())
            raise layout_error(
                listing,
                f"several folders are called like the {split} split",
                mine,
                f"{setting('ignore')} one of them, or take all: {setting('splits', options)}",
            )
        if mine:
            splits[split] = [unwrapped(listing, mine[0], notes)]
    return SplitFolders(splits)


def check_classes(listing: Listing, folders: list[Path], marks: dict[Path, SplitMark], notes: list[str]) -> None:
    """Raises DataError for class folders that may be splits after all."""
    if len({split for found in marks.values() for split in found.splits}) > 1:
        raise layout_error(listing, "names of class folders speak of splits", list(marks), CLASSES)
    if marks:
        notes.append(f"taken for classes: {first_names(listing.name(folder) for folder in marks)}")
    if not listing.choice.whole:
        check_unlike_splits(listing, folders)


def check_all_splits(listing: Listing, folders: list[Path], marks: dict[Path, SplitMark]) -> None:
    """Raises DataError for folders beside splits that are none."""
    unknown = [folder for folder in folders if folder not in marks or marks[folder].split is None]
    if unknown:
        raise layout_error(
            listing,
            "beside splits lies what is none",
            unknown,
            f"leave out what is none: {setting('ignore', quoted(listing, unknown))}; "
            f"or say what is: {example(listing, marks, unknown)}; {CLASSES}",
            others=[folder for folder in folders if folder not in unknown],
        )


def example(listing: Listing, marks: dict[Path, SplitMark], unknown: list[Path]) -> str:
    """An option that names a folder for each split."""
    folders = {found.split: folder for folder, found in marks.items() if found.split}
    rest = [folder for folder in unknown if holds_classes(listing, folder)]
    for split in (TRAIN, TEST):
        if split not in folders and rest:
            folders[split] = rest.pop(0)
    choices = " ".join(f"{split}={quoted(listing, [folders[split]])}" for split in SPLITS if split in folders)
    return setting("splits", choices)


def wraps(listing: Listing, folder: Path) -> bool:
    """True if a tree's only folder is no class and no split, but has the tree in it: it holds folders and no picture,
    and is called like no split, or holds splits itself."""
    if not holds_classes(listing, folder):
        return False
    if listing.choice.whole or mark(folder.name) is None:
        return True
    inner = listing.quiet().listed(folder)[0]
    return any(is_split(path.name) for path in inner) and not same(folder, inner)


def same(folder: Path, inner: list[Path]) -> bool:
    """True if a split's only folder is named for the same split: seg_train/seg_train."""
    if len(inner) != 1:
        return False
    outer, found = mark(folder.name), mark(inner[0].name)
    return outer is not None and found is not None and outer.splits == found.splits


def unwrapped(listing: Listing, folder: Path, notes: list[str]) -> Path:
    """A split's folder, or the only one in it, where that is called like the same split or like no class: images."""
    inner = listing.quiet().listed(folder)[0]
    if not (same(folder, inner) or is_filler(inner)) or not all(holds_classes(listing, f) for f in (folder, *inner)):
        return folder
    notes.append(f"read from the folder {listing.name(inner[0])}")
    listing.leave_loose(folder, listing.listed(folder)[1])
    return unwrapped(listing, inner[0], notes)


def is_filler(inner: list[Path]) -> bool:
    return len(inner) == 1 and inner[0].name.casefold() in FILLERS


def holds_classes(listing: Listing, folder: Path) -> bool:
    """True if it has folders in it, and no pictures beside them."""
    quiet = listing.quiet()
    folders, files = quiet.listed(folder)
    return bool(folders) and not any(quiet.takes(path) for path in files)


def class_folders(listing: Listing, base: Path) -> list[Path]:
    """Raises DataError where there are none, be it that the pictures lie beside one another."""
    folders, files = listing.listed(base)
    loose = listing.leave_loose(base, files)
    if folders:
        return folders
    listing.check()
    ignore = "" if base == listing.root else f"leave it out with {setting('ignore', quoted(listing, [base]))}; or "
    if loose:
        raise DataError(
            f"{loose:,} picture{'s lie' if loose > 1 else ' lies'} in no class folder",
            where=base,
            expected="FOLDER/CLASS/picture",
            got=first_names((file.name for file in files), limit=3),
            remedy=f"{ignore}put each into a folder that is called like its class{table_hint(listing.root)}",
        )
    raise DataError(
        "there is no class folder",
        where=base,
        expected="FOLDER/CLASS/picture",
        got=first_names((file.name for file in files), limit=3) or "nothing",
        remedy=f"{ignore}give the folder that holds one folder of pictures a class{table_hint(listing.root)}",
    )


def check_unlike_splits(listing: Listing, folders: list[Path]) -> None:
    """Raises DataError where folders hold folders of the very same names: classes in splits, or splits in classes,
    whatever their language."""
    inner = {folder: listing.quiet().listed(folder)[0] for folder in folders if holds_classes(listing, folder)}
    if any(is_split(path.name) for members in inner.values() for path in members):
        return  # `check_no_splits_within` raises an error that says more
    times = Counter(path.name.casefold() for members in inner.values() for path in members)
    shared = sorted(name for name, count in times.items() if count > 1)
    if len(shared) > 1:
        alike = [folder for folder, members in inner.items() if any(path.name.casefold() in shared for path in members)]
        raise layout_error(
            listing,
            "folders hold folders of the same names: are they splits?",
            alike,
            "if so, "
            f"{setting('splits', f'train={quoted(listing, alike[:1])} test={quoted(listing, alike[1:2])}')}; "
            f"{CLASSES}; "
            f"if each is a class and has splits in it, {setting('splits', in_each(shared[:2], (TRAIN, TEST)))}",
            within=shared,
        )


def check_no_splits_within(listing: Listing, splits: dict[str, list[Path]], classes: dict[str, list[Path]]) -> None:
    """Raises DataError for class folders called like splits, unless every split has them, and for class folders that
    hold folders called like splits."""
    called = {split: {path.name for path in members if is_split(path.name)} for split, members in classes.items()}
    everywhere = set.intersection(*called.values()) if len(called) > 1 else set()
    odd = [
        path for members in classes.values() for path in members if is_split(path.name) and path.name not in everywhere
    ]
    if odd:
        example = " ".join(
            f"{split}={quoted(listing, members)}" for split, members in splits.items() if members != [listing.root]
        )
        raise layout_error(
            listing,
            "a class folder is called like a split",
            odd,
            f"{setting('ignore', quoted(listing, odd))}; if these are classes, {setting('splits', example or 'none')}",
        )
    for members in classes.values():
        for folder in members:
            inner = [path for path in listing.quiet().listed(folder)[0] if is_split(path.name)]
            if inner:
                itself = f"ffdist data prepare {shlex.quote(str(folder))}"
                names = [path.name for path in inner]
                each = in_each(names, [found.split or "" for name in names if (found := mark(name))])
                raise layout_error(
                    listing,
                    "a class folder holds splits",
                    inner,
                    f"if they hold the classes, {itself}; if each class has its own, {setting('splits', each)}; "
                    f"if they are no splits, {setting('splits', 'none')}",
                )


def layout_error(
    listing: Listing,
    what: str,
    folders: list[Path],
    remedy: str,
    *,
    others: list[Path] | None = None,
    within: list[str] | None = None,
) -> DataError:
    expected = f"splits alone, as {first_names(listing.name(f) for f in others)}" if others else None
    got = first_names(listing.name(folder) for folder in folders)
    return DataError(
        what,
        where=listing.root,
        expected=expected,
        got=f"{got}, each with {first_names(within, limit=5)}" if within else got,
        remedy=remedy,
    )


def quoted(listing: Listing, folders: list[Path]) -> str:
    """Folders' names relative to the source, quoted for a shell."""
    return first_names((shlex.quote(listing.name(folder)) for folder in folders), " ")
