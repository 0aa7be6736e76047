"""Groups of samples that their names tell: patients, speakers, scenes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ffdist.data.sources.listing import first_names
from ffdist.errors import ConfigError, DataError, setting

FLAG = setting("group_pattern")


def check_pattern(text: str | None) -> None:
    """Raises ConfigError for what is no regular expression."""
    try:
        re.compile(text or "")
    except re.error as error:
        raise ConfigError(
            "the groups' pattern is no regular expression",
            where=FLAG,
            expected="one that finds the group in a file's name, as 'patient[0-9]+' does",
            got=f"{text}: {error}",
        ) from error
    if text == "":
        raise ConfigError("the groups' pattern is empty", where=FLAG, remedy=f"leave {FLAG} out")


def refuse_pattern(text: str | None, where: object) -> None:
    """Raises ConfigError for groups by names, of samples that have none."""
    if text is not None:
        raise ConfigError(
            "these samples have no names that tell groups",
            where=where,
            expected="pictures in files, or paths of them",
            got=setting("group_pattern", text),
            remedy=f"leave it out, or name a column with {setting('group_column')}",
        )


def groups_by_name(text: str, names: Iterable[str], where: object) -> np.ndarray:
    """The group of each name, int64 [N]: what the pattern's parentheses hold, or all that it finds.

    Raises DataError for names in which it finds nothing, and where all are one group.
    """
    pattern, found = re.compile(text), dict[tuple[str | None, ...], int]()
    numbers, others = [], []
    for name in names:
        match = pattern.search(name)
        if match is None:
            others.append(name)
            continue
        numbers.append(found.setdefault(match.groups() or (match[0],), len(found)))
    if others:
        raise DataError(
            f"the groups' pattern finds nothing in {len(others):,} of {len(others) + len(numbers):,} names",
            where=where,
            expected=f"{FLAG} that finds a group in each name",
            got=first_names(others, limit=4),
            remedy="a pattern for all of them, or leave such files out",
        )
    if len(found) < 2:
        one = "/".join(part or "" for part in next(iter(found), ()))
        raise DataError(
            "there is one group only",
            where=f"{where}, {FLAG}",
            expected="2 groups or more",
            got=one,
            remedy=f"a pattern that tells them apart, or leave out {FLAG}",
        )
    return np.array(numbers, np.int64)
