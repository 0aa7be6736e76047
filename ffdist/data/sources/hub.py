"""The splits that a Hugging Face repository's README.md names, by `configs:` in its front matter."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ffdist.data.sources.listing import Listing, first_names
from ffdist.data.sources.splits import SPLITS, WORDS, SplitChoice
from ffdist.errors import DataError, setting
from ffdist.notes import note

CARD = "README.md"
BY_HAND = setting("splits", "train=NAME test=NAME")
Files = Mapping[str, Sequence[str]]
"""The patterns of each split."""


def choice_of_card(folder: Path, choice: SplitChoice) -> SplitChoice:
    """The choice of splits that a repository's card makes, where the user makes none; a note says so.

    Raises DataError for several configurations of which none is the default, and for files that are not there.
    """
    if choice.splits is not None or choice.whole or not (folder / CARD).is_file():
        return choice
    configs = {name: paths for name, paths in configurations(folder / CARD).items() if paths}
    if not configs:
        return choice
    name = "default" if "default" in configs else next(iter(configs))
    if len(configs) > 1 and name != "default":
        raise several_configs_error(folder, configs)
    splits = {WORDS[split.casefold()]: paths for split, paths in configs[name].items() if split.casefold() in WORDS}
    others = [split for split in configs[name] if split.casefold() not in WORDS]
    check_there(folder, splits)
    left = f"; left out: {first_names(others)}" if others else ""
    note(f"splits are those of {folder / CARD}: {split_options(splits)}{left}")
    return replace(choice, splits=splits) if splits else choice


def configurations(card: Path) -> dict[str, Files]:
    """The data files of each; none where the card names none. Raises DataError for a front matter that is no YAML."""
    import yaml  # few have a card

    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n") or "\nconfigs:" not in text:
        return {}
    try:
        front = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError as error:
        raise DataError(
            "a repository's card cannot be read",
            where=card,
            expected="YAML between two lines of ---",
            got=str(error).splitlines()[0],
            remedy=f"mend it, or say which files are which: {BY_HAND}",
        ) from error
    configs = front.get("configs") if isinstance(front, dict) else None
    found: dict[str, Files] = {}
    for config in configs if isinstance(configs, list) else ():
        if isinstance(config, dict):
            name = "default" if config.get("default") is True else str(config.get("config_name", "default"))
            found[name] = patterns_of(config)
    return found


def patterns_of(config: Mapping[str, Any]) -> Files:
    """`data_files` as a path, a list of paths, or a list of splits with their paths."""
    files, base = config.get("data_files"), str(config.get("data_dir") or "")
    if files is None:
        return {"train": [pattern(base)]} if base else {}
    splits: dict[str, list[str]] = {}
    for each in files if isinstance(files, list) else [files]:
        split, paths = (each.get("split", "train"), each.get("path")) if isinstance(each, dict) else ("train", each)
        for path in paths if isinstance(paths, list) else [paths]:
            splits.setdefault(str(split), []).append(pattern(f"{base}/{path}" if base else str(path)))
    return splits


def pattern(path: str) -> str:
    """A pattern as `SplitChoice` takes it: of a folder by its name, and with `*` for any number of folders."""
    for end in ("/**/*", "/**", "/*", "/"):
        path = path.removesuffix(end)
    return path.removeprefix("./").replace("**/", "*")


def check_there(folder: Path, splits: Files) -> None:
    """Raises DataError for a pattern that nothing is called like."""
    listing = Listing(folder, SplitChoice())
    names = {listing.name(path) for path in listing.files(folder)}
    names |= {parent.as_posix() for name in names for parent in Path(name).parents}
    for split, paths in splits.items():
        lost = [each for each in paths if each not in names and not any(fnmatchcase(name, each) for name in names)]
        if lost:
            raise DataError(
                f"the files of the {split} split are not there",
                where=folder / CARD,
                expected=first_names(lost),
                got=first_names(sorted(name for name in names if "/" not in name and name != "."), limit=8),
                remedy=f"fetch all of the repository; or say which files are which: {BY_HAND}",
            )


def several_configs_error(folder: Path, configs: Mapping[str, Files]) -> DataError:
    first, files = next((name, files) for name, files in configs.items())
    known = {WORDS[split.casefold()]: paths for split, paths in files.items() if split.casefold() in WORDS}
    return DataError(
        "the repository has several configurations",
        where=folder / CARD,
        expected="one of them, by its files",
        got=first_names(configs),
        remedy=f"e.g. for {first}: {setting('splits', split_options(known))}",
    )


def split_options(splits: Files) -> str:
    return " ".join(f"{split}={shlex.quote(path)}" for split in SPLITS for path in splits.get(split, ()))
