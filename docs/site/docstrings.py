"""Docstrings as Markdown: a line "name: what it is" about a parameter becomes an entry of a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"(\w+(?:, \w+)*): (.*)")
OUTCOME = re.compile(r"(Returns|Raises|Yields)\b")


class Fields(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and (obj.is_class or obj.is_function):
            obj.docstring.value = as_lists(obj.docstring.value, parameters(obj))


def parameters(obj: griffe.Object) -> set[str]:
    """The names that the docstring of a function, or of a class, may explain."""
    made = obj.members.get("__init__") if obj.is_class else obj
    return {each.name.lstrip("*") for each in getattr(made, "parameters", ())} - {"self", "cls"}


def as_lists(text: str, names: set[str]) -> str:
    """As Markdown; shapes such as [K][K] are no links there."""
    lines: list[str] = []
    inside = False  # of a list: its entries' further lines are indented
    for line in text.replace("][", "]\\[").splitlines():
        found = FIELD.fullmatch(line)
        if found and set(found[1].split(", ")) <= names:
            lines += [*([] if inside else [""]), f"- **{found[1]}**: {found[2]}"]
            inside = True
        elif inside and line.startswith("    "):
            lines.append(line)
        else:
            lines += [*([""] if inside or OUTCOME.match(line) else []), line]
            inside = False
    return "\n".join(lines)
