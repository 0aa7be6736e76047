"""The splits of a folder of tables, by its files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ffdist.data.formats import is_picture
from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.splits import SPLITS, TEST, TRAIN, VALIDATION, SplitChoice, mark
from ffdist.errors import DataError, setting

SUFFIXES = (".parquet", ".arrow", ".feather")
NUMBERS = r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<![a-z0-9])[0-9a-f]{8,}(?![a-z0-9])|\d+"
"""Numbers of shards: also a UUID (Spark), and a checksum (Hugging Face)."""
WHOLE = f"to take all rows as one, {setting('splits', 'none')}"


class TableFiles(NamedTuple):
    """The table files of each split, and the listing that says what was left out."""

    splits: dict[str, list[Path]]
    listing: Listing
    notes: list[str]


def is_table(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def holds_tables(folder: Path, choice: SplitChoice) -> bool:
    """True if there is a table in a folder, or below it as Hugging Face's repositories have them."""
    return any(is_table(path) for path in Listing(folder, choice).files(folder))


def find_files(path: Path, choice: SplitChoice, texts: Mapping[Path, str] | None = None) -> TableFiles:
    """The files of each split, sorted by name: as the user says, else as the names of files and their folders say.

    texts: files of text in the folder, which are taken for tables then; of each, why it is none after all, or "".
    A file by itself is one split, whatever it is called. Raises DataError for files whose part is not clear.
    """
    if path.is_file() and (choice.splits is not None or choice.ignore):
        split = choice.chosen_split(path.name)
        choice.check_used(path.parent)
        return TableFiles({split or TRAIN: [path]}, Listing(path.parent, choice), [])
    if path.is_file():
        found = mark(path.stem)
        notes = (
            []
            if found is None or found.split in (None, TRAIN)
            else [
                f"{path.name} is taken for a data set of its own, though its name speaks of {found.split}; "
                f"{setting('test_fraction', '1')} makes all of it the test split"
            ]
        )
        return TableFiles({TRAIN: [path]}, Listing(path.parent, SplitChoice()), notes)
    listing = Listing(path, choice)
    files = tables(listing) if texts is None else text_tables(listing, texts)
    if choice.splits is not None:
        splits = chosen_splits(listing, files)
    elif choice.whole:
        splits = {TRAIN: files}
    else:
        splits = named(listing, files)
    choice.check_used(path)
    if TRAIN not in splits and VALIDATION in splits:
        only = setting("splits", "test=NAME")
        remedy = f"name one with {setting('splits', 'train=NAME')}, or {only} for a set to evaluate only"
        raise splits_error(listing, "there is no training split", splits[VALIDATION], remedy)
    return TableFiles(splits, listing, [] if choice.splits is not None else taken_together(listing, splits))


def taken_together(listing: Listing, splits: dict[str, list[Path]]) -> list[str]:
    """A note where files of different names make one split, as nothing says that they belong together."""
    several = [members for members in splits.values() if len({series(listing, path) for path in members}) > 1]
    return [f"taken together: {first_names((listing.name(path) for path in members), limit=6)}" for members in several]


def tables(listing: Listing) -> list[Path]:
    """All table files, at any depth. Raises DataError for pictures beside them, which nothing would read."""
    found = listing.files(listing.root)
    listing.check()
    pictures = [path for path in found if path.parent != listing.root and not is_table(path) and is_picture(path)]
    if pictures:
        raise splits_error(
            listing,
            "a folder holds tables and pictures",
            pictures,
            "leave one kind out, e.g. "
            + setting("ignore", "'*.parquet' '*.arrow' '*.feather'")
            + f", or {setting('ignore')} the pictures' folder",
        )
    kept = [path for path in found if is_table(path) and is_listed(path)]
    for path in found:
        if not is_table(path):
            listing.leave(f"*{path.suffix.lower()}" if path.suffix else "files without an ending", "no tables")
        elif path not in kept:
            listing.leave(listing.name(path), "not listed in state.json beside it")
    return kept


def text_tables(listing: Listing, texts: Mapping[Path, str]) -> list[Path]:
    for path, why in texts.items():
        if why:
            listing.leave(listing.name(path), why)
    return sorted(path for path, why in texts.items() if not why)


def is_listed(path: Path) -> bool:
    """True if a file is data, where Hugging Face's `save_to_disk` says which are: caches lie beside them."""
    try:
        state = json.loads((path.parent / "state.json").read_text(encoding="utf-8"))
        return path.name in [file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return True


def chosen_splits(listing: Listing, files: Sequence[Path]) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in files:
        parts = listing.name(path).split("/")
        names = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        split = next((split for name in names if (split := listing.choice.chosen_split(name))), None)
        if split is None:
            listing.leave(listing.name(path), "in no split of `splits`")
        else:
            splits[split].append(path)
    return {split: members for split, members in splits.items() if members}


def named(listing: Listing, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the splits that their names say: once one is called like a split, all must be; otherwise all are one."""
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    unknown = []
    for path in files:
        words = [*path.relative_to(listing.root).parent.parts, path.stem]
        found = {split for word in words if (mentioned := mark(word)) for split in mentioned.splits}
        (splits[found.pop()] if len(found) == 1 else unknown).append(path)
    known = [path for members in splits.values() for path in members]
    if not known and len({path.parent for path in unknown}) == 1 and not any(mark(path.stem) for path in unknown):
        return {TRAIN: list(files)}
    if unknown:
        what = "beside files of splits lies what is of none" if known else "files of several folders, and of no split"
        raise splits_error(
            listing,
            what,
            unknown,
            f"leave out what is none: {setting('ignore', quoted(listing, unknown))}; "
            f"or say what is: {example(listing, splits, unknown)}; {WHOLE}",
            others=known,
        )
    for split, members in splits.items():
        kinds = {series(listing, path): path for path in members}
        if len(kinds) > 1:
            raise splits_error(
                listing,
                f"files of different names are called like the {split} split",
                list(kinds.values()),
                f"{setting('ignore')} what is not it; or say what is: "
                f"{setting('splits', f'{split}={quoted(listing, members[:1])}')} ...; "
                f"{WHOLE}",
            )
    return {split: members for split, members in splits.items() if members}


def example(listing: Listing, splits: dict[str, list[Path]], unknown: Sequence[Path]) -> str:
    """An option that names every split."""
    found = {split: members for split, members in splits.items() if members}
    rest = [[path] for path in unknown]
    for split in (TRAIN, TEST):
        if split not in found and rest:
            found[split] = rest.pop(0)
    names = (f"{split}={shlex.quote(listing.name(path))}" for split, members in found.items() for path in members)
    return setting("splits", first_names(names, " "))


def series(listing: Listing, path: Path) -> str:
    """The common part of the names of one split's files: all but for numbers and checksums."""
    return re.sub(NUMBERS, "0", listing.name(path).casefold())


def splits_error(
    listing: Listing, what: str, files: Sequence[Path], remedy: str, others: Sequence[Path] = ()
) -> DataError:
    expected = (
        f"names that say the split, as {first_names((listing.name(p) for p in others), limit=3)}" if others else None
    )
    got = first_names((listing.name(path) for path in files), limit=6)
    return DataError(what, where=listing.root, expected=expected, got=got, remedy=remedy)


def quoted(listing: Listing, files: Sequence[Path]) -> str:
    return first_names((shlex.quote(listing.name(path)) for path in files), " ")
