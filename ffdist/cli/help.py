"""`--help`: a command's arguments in groups, an option a line where it fits, with defaults as they are."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ffdist.options import text_of
from ffdist.settings.base import SettingsGroup, explained

Positional = "positional"
"""Marks a positional field: its value is given by its place, without an option."""
Flag = Annotated[bool, "flag"]
"""A switch that cannot be turned off again: what a command does."""
LEFT = 26
"""Columns of a flag and its value, where there are 80 at least in all."""
MIN_WIDTH, MAX_WIDTH = 32, 110
"""Columns of the whole help page: at least, at most."""
SHORT = 44
"""Characters of what is said of a default."""
SENTENCE = re.compile(r"(?<!e\.g)\. ")
"""Between two sentences; "e.g. widths=4" is one."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a command, as its help shows it."""

    name: str
    """The field's name."""
    kind: Any
    default: Any
    text: str
    positional: bool = False
    flag: str = ""
    required: bool = False
    both: bool = False
    """Whether it is a switch that can be turned off, too."""
    setting: bool = False
    """Whether it is a setting of a run, whose several values `none` takes away."""
    rare: bool = False
    """Whether help only names it."""
    alone: str | None = None
    """The value that it stands for where none is after it."""

    @property
    def kind_if_given(self) -> Any:
        """The type without None: int for `int | None`."""
        kinds = [each for each in get_args(self.kind) if each is not type(None)]
        return kinds[0] if get_origin(self.kind) in (Union, UnionType) and len(kinds) == 1 else self.kind

    @property
    def spelled(self) -> str:
        """`--lr FLOAT`; `RUN`."""
        value = placeholder(self.kind)
        if self.positional:
            return self.name.upper() + (" ..." if is_many(self.kind_if_given) else "")
        value = f"[{value}]" if self.alone else value
        return f"{self.flag} {value}" if value else self.flag


def arguments_of(kind: type, made: Any = None) -> Iterator[Argument]:
    """The arguments that a command's dataclass has, but for its groups of settings.

    made: one of that class, whose values are the defaults; None: the fields' own.
    """
    hints, texts = get_type_hints(kind, include_extras=True), explained(kind)
    for field in dataclasses.fields(kind):
        hint, marks = hints[field.name], []
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if dataclasses.is_dataclass(hint):
            continue
        default = getattr(made, field.name) if made is not None else field.default
        flag = f"--{field.name.rstrip('_').replace('_', '-')}"
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rare = field.metadata.get("rare", False) and default == field.default
        yield Argument(
            field.name,
            hint,
            default,
            texts.get(field.name, ""),
            Positional in marks,
            flag,
            required,
            both=not marks,
            setting=issubclass(kind, SettingsGroup),
            rare=rare,
            alone=field.metadata.get("alone"),
        )


def groups_of(made: Any) -> Iterator[tuple[str, SettingsGroup]]:
    """The groups of settings inside, by their headings."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, SettingsGroup):
            yield heading(value), value
        elif dataclasses.is_dataclass(value):
            yield from groups_of(value)


def heading(group: SettingsGroup) -> str:
    """The first line of a group's docstring, without its full stop."""
    return (type(group).__doc__ or group.group).partition("\n")[0].rstrip(".")


def width() -> int:
    return min(MAX_WIDTH, max(MIN_WIDTH, shutil.get_terminal_size().columns))


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph, or several lines of which each is one, as wide as the terminal; further lines are indented."""
    lines = [
        textwrap.wrap(line, width(), subsequent_indent=indent, break_on_hyphens=False) or [""]
        for line in text.splitlines()
    ]
    return "\n".join(line for each in lines for line in each)


def join_lines(text: str) -> str:
    """Paragraphs, without the line breaks that they have in a source; those with indented lines stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if "\n " in each else wrapped(" ".join(each.split())) for each in paragraphs)


def page(usage: str, summary: str, groups: list[tuple[str, list[Argument]]], more: str = "") -> str:
    """The whole text. groups: headings with their arguments."""
    lines = [*textwrap.wrap(f"usage: {usage}", width(), subsequent_indent=" " * 7, break_on_hyphens=False), ""]
    lines += textwrap.wrap(summary, width())
    for title, arguments in groups:
        if arguments:
            lines += [
                *([""] if width() >= 70 else []),
                f"{title}:",
                *(line for each in arguments if not each.rare for line in entry(each)),
                *rare_names([each.flag for each in arguments if each.rare]),
            ]
    lines += ["", *(line for part in more.splitlines() for line in textwrap.wrap(part, width()))] if more else []
    return "\n".join(lines)


def rare_names(flags: list[str]) -> list[str]:
    """The names of rarely needed options, in one paragraph without explanations."""
    return (
        textwrap.wrap(f"  further: {' '.join(flags)}", width(), subsequent_indent=" " * 11, break_on_hyphens=False)
        if flags
        else []
    )


def entry(argument: Argument) -> list[str]:
    """An argument's lines: how it is spelled, the first sentence about it, its default."""
    text = first_sentence(argument.text) + choices_text(argument) + default_text(argument)
    left, columns = f"  {argument.spelled}", LEFT + 3
    if width() < 80:
        return textwrap.wrap(f"{left}  {text}", width(), subsequent_indent=" " * 6, break_on_hyphens=False)
    body = textwrap.wrap(text, width() - columns, break_on_hyphens=False) or [""]
    if len(left) >= columns and len(left) + 2 + len(text) <= width():
        return [f"{left}  {text}"]
    if len(left) >= columns - 1:
        return [left, *(" " * columns + line for line in body)]
    return [f"{left:<{columns}}{body[0]}", *(" " * columns + line for line in body[1:])]


def first_sentence(text: str) -> str:
    return SENTENCE.split(text, maxsplit=1)[0].rstrip(".")


def choices_text(argument: Argument) -> str:
    """The choices, where what stands for the value does not name them."""
    names = choices_of(argument.kind)
    return f": {', '.join(map(str, names))}" if names and "NAME" in argument.spelled else ""


def default_text(argument: Argument) -> str:
    """The default in brackets; for an argument without one, what its text says of that, where it is short."""
    value = argument.default
    if value is None or value == ():
        _, found, rest = argument.text.partition("Default: ")
        words = first_sentence(rest)
        return f" [{words}]" if found and len(words) <= SHORT else ""
    if value is dataclasses.MISSING or argument.positional or value is False:
        return ""
    return f" [{'on' if value is True else typed_text(value)}]"


def typed_text(value: Any) -> str:
    """The value as it is typed."""
    return " ".join(map(text_of, value)) if isinstance(value, (tuple, list)) else text_of(value)


def is_many(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def placeholder(kind: Any) -> str:
    """The placeholder of a value: N, X, NAME, a|b; nothing for a switch."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kinds = [each for each in args if each is not type(None)]
        return placeholder(kinds[0])
    if origin is tuple:
        inner = [placeholder(each) for each in args if each is not Ellipsis]
        return f"{inner[0]} ..." if is_many(kind) else " ".join(inner)
    if origin is Literal:
        choices = "|".join(map(str, args))
        return choices if len(choices) <= LEFT - 14 else "NAME"
    return {bool: "", int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def whole_text(argument: Argument) -> str:
    """All that is said about it, with its choices."""
    choices = choices_of(argument.kind)
    return argument.text + (f" One of: {', '.join(map(str, choices))}." if choices else "")


def choices_of(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    for inner in get_args(kind):
        if found := choices_of(inner):
            return found
    return ()
