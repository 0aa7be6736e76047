"""Splits by the names of folders and files, or as a user says instead."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from ffdist.errors import ConfigError, setting

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
LONG = {
    TRAIN: ("train", "training", "trainval"),
    VALIDATION: ("val", "valid", "validate", "validation", "dev", "devel", "development"),
    TEST: ("test", "testing", "eval", "evaluate", "evaluation"),
}
SHORT = {TRAIN: ("tr", "trn"), VALIDATION: ("va", "vali", "validating"), TEST: ("te", "ts", "tst", "tests")}
GLUED = {word: split for split, words in LONG.items() for word in words}
"""Words that another may be written to without a gap: trainset, Xtest."""
WORDS = GLUED | {word: split for split, words in SHORT.items() for word in words}
FILLERS = frozenset(
    [
        "set",
        "sets",
        "data",
        "dataset",
        "image",
        "images",
        "img",
        "imgs",
        "picture",
        "pictures",
        "pic",
        "pics",
        "photo",
        "photos",
        "sample",
        "samples",
        "split",
        "splits",
        "folder",
        "folders",
        "dir",
        "file",
        "files",
        "of",
        "the",
        "part",
        "full",
        "all",
        "new",
        "final",
        "original",
        "raw",
        "clean",
        "jpg",
        "jpeg",
        "png",
        "x",
        "y",
        "v",
    ]
)
"""Words that say nothing of what is in a split."""
WANTED = "train, validation or test, each with =NAME; or none"


@dataclass(frozen=True)
class SplitMark:
    """The splits that a name mentions."""

    splits: frozenset[str]
    """All splits that the name mentions."""
    alone: bool
    """Whether it says nothing else: "Train", "test_images", "val2017"; but not "mnist_train", "bullet_train"."""

    @property
    def split(self) -> str | None:
        """The only split that the name mentions; None where there are several."""
        return next(iter(self.splits)) if len(self.splits) == 1 else None


def mark(name: str) -> SplitMark | None:
    """Read the split off a name, whatever its case; None where it says nothing."""
    for pieces in (re.findall(r"[^\W\d_]+", name), re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)):
        found = {piece: split_of(piece.casefold()) for piece in pieces}
        splits = frozenset(split for split in found.values() if split)
        if splits:
            rest = {piece.casefold() for piece, split in found.items() if split is None}
            return SplitMark(splits, alone=rest <= FILLERS)
    return SplitMark(frozenset({TEST}), alone=False) if "t10k" in name.casefold() else None  # MNIST's own name for it


def is_split(name: str) -> bool:
    """True if a name is a split's, and says nothing more."""
    found = mark(name)
    return found is not None and found.alone and found.split is not None


def split_of(word: str) -> str | None:
    """The split that a word in small letters names."""
    if word in WORDS:
        return WORDS[word]
    for known, split in GLUED.items():
        rest = word.removeprefix(known) if word.startswith(known) else word.removesuffix(known)
        if rest != word and rest in FILLERS:
            return split
    return None


@dataclass(frozen=True)
class SplitChoice:
    """A user's choice among a source's folders and files, by name or pattern, relative to the source."""

    splits: Mapping[str, Sequence[str]] | None = None
    """What each split is made of, and nothing else; None: as their names say."""
    whole: bool = False
    """Whether names are not read: then none means a split."""
    ignore: Sequence[str] = ()
    """Patterns of what is left out, at any depth."""
    used: set[str] = field(default_factory=set, compare=False)
    """Patterns that something was called like."""

    def chosen_split(self, name: str) -> str | None:
        """The split that the user has chosen for a path relative to the source; None where none is."""
        split_patterns = (self.splits or {}).items()
        return next((split for split, patterns in split_patterns if any(self.like(name, p) for p in patterns)), None)

    def ignores(self, name: str) -> bool:
        matches = [self.like(name, pattern) for pattern in self.ignore]  # every one, so that `used` is complete
        return any(matches)

    def like(self, name: str, pattern: str) -> bool:
        """name: a path relative to the source."""
        last = name.rsplit("/", 1)[-1]
        same = pattern in (name, last) or fnmatchcase(name, pattern) or fnmatchcase(last, pattern)
        if same:
            self.used.add(pattern)
        return same

    def check_used(self, root: Path) -> None:
        """Raises ConfigError for a pattern that nothing is called like."""
        patterns_by_flag = {
            setting("ignore"): self.ignore,
            setting("splits"): [p for each in (self.splits or {}).values() for p in each],
        }
        for flag, patterns in patterns_by_flag.items():
            for pattern in patterns:
                if pattern not in self.used:
                    raise ConfigError(
                        "nothing in the source is called so",
                        where=f"{flag}, {root}",
                        got=pattern,
                        remedy="give a name, a path below the source, or a pattern such as '*.txt'",
                    )


def choice(
    root: Path,
    splits: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
) -> SplitChoice:
    """Raises ConfigError for a split of another name."""
    ignored = tuple(relative(root, name) for name in ([ignore] if isinstance(ignore, str) else ignore))
    if splits is not None and not isinstance(splits, (str, Mapping)):
        splits = read_splits(splits)
    if splits is None or isinstance(splits, str):
        if splits not in (None, "none"):
            raise ConfigError("not a choice of splits", where=setting("splits"), expected=WANTED, got=splits)
        return SplitChoice(whole=splits == "none", ignore=ignored)
    patterns: dict[str, list[str]] = {}
    for key, names in splits.items():
        split = WORDS.get(key.casefold())
        if split is None:
            raise ConfigError("not a split", where=setting("splits"), expected=", ".join(SPLITS), got=key)
        patterns.setdefault(split, []).extend(relative(root, n) for n in ([names] if isinstance(names, str) else names))
    return SplitChoice(patterns, ignore=ignored)


def relative(root: Path, name: str) -> str:
    """A name as it is relative to the source, also where it was given from the working folder, as a shell completes."""
    path, base = os.path.abspath(name), os.path.abspath(root)
    if os.path.lexists(path) and path.startswith(base + os.sep) and not os.path.lexists(root / name):
        return os.path.relpath(path, base)
    return name.rstrip("/").removeprefix("./")


def read_splits(texts: Sequence[str]) -> dict[str, list[str]] | Literal["none"] | None:
    """The command line's `train=a test=b test=c`, or `none`, as `choice` takes it."""
    if not texts:
        return None
    if [text.casefold() for text in texts] == ["none"]:
        return "none"
    patterns: dict[str, list[str]] = {}
    for text in texts:
        key, equals, name = text.partition("=")
        if not (equals and name):
            raise ConfigError("not a choice of splits", where=setting("splits"), expected=WANTED, got=text)
        patterns.setdefault(key, []).append(name)
    return patterns
