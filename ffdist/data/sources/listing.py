"""The files below a source's folder, with an account of all that is not taken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ffdist.data.formats import format_remedy, is_picture
from ffdist.data.manifest import LeftOut
from ffdist.data.sources.splits import SplitChoice
from ffdist.errors import DataError, setting

JUNK = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "$recycle.bin",
        "lost+found",
        "system volume information",
        "icon\r",
    }
)
"""What systems leave in people's folders, in small letters; besides everything whose name begins with a dot."""
SHOWN = 20
"""The entries shown of a list in an error."""


class Listing:
    """Lists folders, links followed, and keeps account of what is left out, and of what cannot be looked into."""

    def __init__(self, root: Path, choice: SplitChoice) -> None:
        self.root = root
        self.choice = choice
        self.counts: dict[tuple[str, str], int] = {}
        self.problems: list[str] = []
        self.seen: set[Path] = set()
        """Folders whose left-out files are counted already."""

    @property
    def left_out(self) -> list[LeftOut]:
        """All that was left out so far, by reason, with counts."""
        return [LeftOut(what, why, count) for (what, why), count in self.counts.items()]

    def leave(self, what: str, why: str, count: int = 1) -> None:
        """Count something that is not taken. what: a name or an ending; why: the reason."""
        if count:
            self.counts[what, why] = self.counts.get((what, why), 0) + count

    def leave_loose(self, base: Path, files: list[Path]) -> int:
        """Account for files that lie beside folders. Returns how many of them are pictures."""
        loose = sum(self.takes(path) for path in files)
        self.leave(f"pictures in {base.name}", "in no class folder", loose)
        return loose

    def quiet(self) -> Listing:
        """A listing of the same source for looking ahead: what it leaves out is not counted."""
        return Listing(self.root, self.choice)

    def name(self, path: Path) -> str:
        """Relative to the source, for an error, an account, or an option."""
        return path.relative_to(self.root).as_posix()

    def listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the other files in a folder, sorted; without what systems leave and what is ignored."""
        new = folder not in self.seen
        self.seen.add(folder)
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, is_folder(entry)) for entry in entries)
        except OSError as error:
            if new:
                self.problems.append(f"{folder}: {error.strerror or error}")
            return [], []
        folders, files = [], []
        for name, folded in found:
            path = folder / name
            if is_junk(name):
                self.leave("system files", "hidden, or what a system keeps of its own", new)
            elif self.choice.ignore and self.choice.ignores(self.name(path)):
                self.leave(self.name(path), "left out by `ignore`", new)
            else:
                (folders if folded else files).append(path)
        return folders, files

    def files(self, folder: Path, above: tuple[tuple[int, int], ...] = ()) -> list[Path]:
        """Every file at any depth, sorted. A link to a folder that it lies in is a problem."""
        try:
            status = os.stat(folder)
        except OSError as error:
            self.problems.append(f"{folder}: {error.strerror or error}")
            return []
        place = (status.st_dev, status.st_ino)
        if place in above:
            self.problems.append(f"{folder}: a link to a folder that it lies in")
            return []
        folders, files = self.listed(folder)
        deeper = [path for sub in folders for path in self.files(sub, (*above, place))]
        return sorted([*files, *deeper])

    def pictures(self, folder: Path) -> list[Path]:
        """Every picture at any depth, sorted; other files are left out, and counted by their ending."""
        return [path for path in self.files(folder) if self.takes(path)]

    def takes(self, path: Path) -> bool:
        """True if a file is a picture, be it a broken one, as is what has no ending and cannot be looked into."""
        ending = path.suffix.lower()
        if is_picture(path) or not (ending or os.access(path, os.R_OK)):
            return True
        why = format_remedy(path) or "no pictures that can be read"
        self.leave(f"*{ending}" if ending else "files without an ending", why)
        return False

    def check(self) -> None:
        """Raises DataError for all folders that cannot be looked into."""
        if self.problems:
            raise DataError(
                "a folder cannot be looked into" if len(self.problems) == 1 else "folders cannot be looked into",
                where=first_names(self.problems, "\n         "),
                remedy=f"make them readable, remove them, or leave them out with {setting('ignore', 'NAME')}",
            )


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Links followed; a link that leads nowhere, or round in a circle, is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def first_names(names: Iterable[object], between: str = ", ", limit: int = SHOWN) -> str:
    """The first names of a list, and how many more there are."""
    texts: Sequence[str] = [str(name) for name in names]
    more = [f"and {len(texts) - limit:,} more"] * (len(texts) > limit)
    return between.join([*texts[:limit], *more])
