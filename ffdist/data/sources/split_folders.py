"""Folders that are splits because a user says so, or because every class has them in it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.splits import SPLITS, TRAIN, is_split, mark


class SplitFolders(NamedTuple):
    """The folders of each split; the root itself as "train" where it has no splits."""

    splits: dict[str, list[Path]]
    within: bool = False
    """Whether they lie in class folders, and not class folders in them."""


def given_splits(listing: Listing) -> SplitFolders:
    """The user's choice of splits, among folders that hold classes, or else within each class; others are left out."""
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    names = [name for members in (listing.choice.splits or {}).values() for name in members]
    todo, others = [listing.root], []
    for folder in todo:
        folders, files = listing.listed(folder)
        listing.leave_loose(folder, files)
        for path in folders:
            name = listing.name(path)
            split = listing.choice.chosen_split(name)
            if split is not None:
                splits[split].append(path)
            elif len(folders) == 1 or any(other.startswith(f"{name}/") for other in names):
                todo.append(path)
            else:
                others.append(path)
    within = not any(splits.values())
    for folder in others:
        inner, files = listing.listed(folder) if within else ([], [])
        found = [(split, path) for path in inner if (split := listing.choice.chosen_split(listing.name(path)))]
        for split, path in found:
            splits[split].append(path)
        kept = {path for _, path in found}
        for path in [path for path in inner if path not in kept] if found else [folder]:
            listing.leave(listing.name(path), "in no split of `splits`")
        listing.leave_loose(folder, files)
    listing.choice.check_used(listing.root)
    return SplitFolders({split: members for split, members in splits.items() if members}, within)


def splits_within(listing: Listing, folders: list[Path], notes: list[str]) -> dict[str, list[Path]] | None:
    """The splits that each class has in it, CLASS/train/picture, where all have nothing else."""
    quiet = listing.quiet()
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for folder in folders:
        inner, files = quiet.listed(folder)
        marks = [found.split for path in inner if is_split(path.name) and (found := mark(path.name)) and found.split]
        plain = not any(quiet.listed(path)[0] for path in inner) and not any(quiet.takes(path) for path in files)
        if len(marks) != len(inner) or TRAIN not in marks or len({*marks}) < len(marks) or not plain:
            return None
        for split, path in zip(marks, inner, strict=True):
            splits[split].append(path)
    if len(folders) < 2:
        return None
    notes.append(
        f"each class has the splits in it: {first_names((listing.name(path) for path in splits[TRAIN]), limit=3)}"
    )
    for folder in folders:
        listing.leave_loose(folder, listing.listed(folder)[1])
    return {split: members for split, members in splits.items() if members}


def in_each(names: Sequence[str], splits: Sequence[str]) -> str:
    """The remedy that says that folders of these names are those splits, in every class."""
    return " ".join(f"{split}={shlex.quote(name)}" for split, name in zip(splits, names, strict=True))
