"""Names of blocks in the text of a plan: in double quotes where they have blanks, or marks of the notation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

QUOTED = r'"(?:[^"\\]|\\.)*"'
"""As JSON has it."""
NAME = rf'(?:{QUOTED}|[^\s,"]+?)'
WORD = re.compile(rf"({NAME})(?:\.\.({NAME}))?(?=[\s,]|$)")
BETWEEN = re.compile(r"[\s,]*")
PLAIN = re.compile(r'[^\s,|@"]+')
"""A name without quotes, unless it is a star, or its dots could be those between two names."""


class Word(NamedTuple):
    """A name, or two with dots between them."""

    text: str
    first: str
    last: str | None


def spelled(name: str) -> str:
    """A block's name as `words_in` reads it."""
    plain = PLAIN.fullmatch(name) and ".." not in f".{name}." and name != "*"
    return name if plain else json.dumps(name, ensure_ascii=False)


def cut(text: str, mark: str) -> list[str]:
    """The text between marks that are not in quotes."""
    parts = [""]
    for piece in re.split(rf"({QUOTED}|{re.escape(mark)})", text):
        if piece == mark:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def words_in(text: str) -> Iterator[Word]:
    """The words between blanks or commas. Raises ValueError, with the text, for a name in quotes that is none."""
    place = next_word(text, 0)
    while place < len(text):
        match = WORD.match(text, place)
        if match is None:
            raise ValueError(text[place:])
        yield Word(match[0], named(match[1]), named(match[2]) if match[2] else None)
        place = next_word(text, match.end())


def next_word(text: str, place: int) -> int:
    """The place at which the next word begins."""
    between = BETWEEN.match(text, place)
    assert between, "nothing between is something, too"
    return between.end()


def named(word: str) -> str:
    """The name that a word says. Raises ValueError as `words_in`."""
    if not word.startswith('"'):
        return word
    try:
        return json.loads(word, strict=False)
    except ValueError as error:
        raise ValueError(word) from error
