"""Things that are called by a name with options, in one text: crop(padding=4,mode=reflect)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ffdist.errors import ConfigError
from ffdist.known import TRANSFORM_ALIASES, TRANSFORM_PLACES
from ffdist.options import nearest, text_of

OPENING, CLOSING, QUOTES = "([", ")]", "'\""


FIRST = ""
"""The name of an option that is given without one: the first."""


class Call(NamedTuple):
    """A name, and options as texts."""

    name: str
    options: dict[str, str]

    def __str__(self) -> str:
        """The call in the one form that settings keep."""
        options = ",".join(f"{key}={value}" if key else value for key, value in self.options.items())
        return f"{self.name}({options})" if options else self.name


def calls_of(words: Iterable[object], where: str) -> tuple[Call, ...]:
    """Each word is a name, a name with its options in brackets, or an option of the name before it: `crop padding=4`,
    as a command line has them; or, of a TOML file, a table of options with the name under "name", or by the name.

    Raises ConfigError for what is none of these.
    """
    found: list[Call] = []
    for word in words:
        if hasattr(word, "as_call"):  # a transform that was made in Python
            found.append(word.as_call())  # pyright: ignore[reportAttributeAccessIssue]
            continue
        if isinstance(word, Mapping):
            found += of_table(word, where)
            continue
        if not isinstance(word, str):
            raise no_call_error(where, word)
        for part in parts_of(word):
            if "=" not in outside(part):
                found.append(one_call(part, where))
            elif not found:
                raise ConfigError(
                    "an option comes before any name", where=where, expected="NAME OPTION=VALUE", got=part
                )
            else:
                found[-1].options.update(options_in(part, where))
    return tuple(found)


def parts_of(word: str) -> list[str]:
    """A text of several names and options as one each; a path may have spaces."""
    bare_word = outside(word)
    if "=" in bare_word:
        return split(word, " \t\n")
    return [word.strip()] if ":" in bare_word else split(word, ", \t\n") or [word]


def of_table(table: Mapping[Any, Any], where: str) -> list[Call]:
    """{"name": "crop", "padding": 4}, or {"crop": {"padding": 4}, "flip": True}."""
    if isinstance(table.get("name"), str):
        by_name = {table["name"]: {key: value for key, value in table.items() if key != "name"}}
    else:
        by_name = {name: {} if options is True else options for name, options in table.items()}
    if not all(isinstance(name, str) and isinstance(options, Mapping) for name, options in by_name.items()):
        raise no_call_error(where, dict(table))
    found = []
    for name, options in by_name.items():
        call = one_call(name, where)
        call.options.update({str(key): text_of(value) for key, value in options.items()})
        found.append(call)
    return found


def one_call(text: str, where: str) -> Call:
    """A name, or one with its options in brackets."""
    name, bracket, inside = text.strip().partition("(")
    if not name or bool(bracket) != text.strip().endswith(")"):
        raise no_call_error(where, text)
    return Call(name.strip(), options_in(inside[:-1], where) if bracket else {})


def options_in(text: str, where: str) -> dict[str, str]:
    """a=1,b=2,3: what has no = belongs to the value before it; at the beginning, to the first option that there is."""
    options: dict[str, str] = {}
    last = None
    for part in split(text, ","):
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            last = name.strip()
            if last in options:
                raise ConfigError(f"option '{last}' is given twice", where=where, got=text)
            options[last] = bare(value)
        elif last is None:
            last = FIRST
            options[last] = bare(part)
        else:
            options[last] += f",{bare(part)}"
    return options


def bare(value: str) -> str:
    """A value without the brackets of a tuple or list, or the quotes, around it, and without spaces beside commas."""
    value = value.strip()
    while len(value) > 1 and (value[0] + value[-1] in ("()", "[]") or (value[0] in QUOTES and value[-1] == value[0])):
        value = value[1:-1].strip()
    return ",".join(part.strip() for part in value.rstrip(",").split(","))


def outside(text: str) -> str:
    """The part of it outside of all brackets."""
    return "".join(part.partition("(")[0] for part in split(text, ""))


def split(text: str, separators: str) -> list[str]:
    """The parts between separators outside of brackets and quotes; empty ones are left out."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if not depth and not quote and character in separators:
            parts.append("")
            continue
        parts[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        else:
            depth += (character in OPENING) - (character in CLOSING)
    return [part for part in parts if part.strip()]


def check_transforms(calls: Iterable[Call], where: str) -> None:
    """Raises ConfigError for the name of a transform that is neither known nor module:Class."""
    for name, _ in calls:
        if name in TRANSFORM_PLACES or ":" in name:
            continue
        plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).replace("_", "-").lower()
        meant = plain if plain in TRANSFORM_PLACES else TRANSFORM_ALIASES.get(plain)
        raise ConfigError(
            f"there is no transform '{name}'",
            where=where,
            expected="a name of `ffdist transforms`, module:Class or file.py:Class",
            remedy=f"did you mean {meant}?" if meant else nearest(name, TRANSFORM_PLACES),
        )


def no_call_error(where: str, got: object) -> ConfigError:
    return ConfigError(
        "this is not a name with options",
        where=where,
        expected="NAME or NAME(OPTION=VALUE,...)",
        got=got if isinstance(got, str) else repr(got),
    )
