"""The names of settings in errors and notes, as the user's front door spells them: `optim.lr` in Python, `--lr` on the
command line."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress

BEGIN, EQUALS, END = "\x02", "\x05", "\x03"
"""Around the name of a setting in a text, and between it and its value: no text of a user's has them, and none is white
space, at which texts are split."""


def setting(name: str, value: object = None) -> str:
    """A setting, or an argument, in the text of an error, for each front door to spell: "optim.lr" is `optim.lr` in
    Python, `--lr` on the command line.

    value: what it is, or should be, set to.
    """
    said = "" if value is None else f"{EQUALS}{value}"
    return f"{BEGIN}{name}{said}{END}"


def as_field(name: str, value: str | None) -> str:
    """`optim.lr`, `plan.stages=2`, `compute.precision="bf16"`, `plan.cut=[1, 2]`; `resume` is a switch of
    `Pipeline.fit`, beside the folder."""
    own = name.rpartition(".")[2]
    if own == "resume":
        return "resume=True"
    if value is None:
        return name
    if own in ARGUMENTS:
        return f"{ARGUMENTS[own]}={quoted(value)}"
    if own in OPTIONS:
        return f"{name}=dict({in_call(shlex.split(value))})"
    if own in LISTS and value != "none":
        with suppress(ValueError):  # quotes that do not end
            words = shlex.split(value)
            return f"{name}=[{', '.join(words if own in NUMBERS else map(quoted, words))}]"
    if own in PAIRS:
        return f"{name}=({', '.join(value.split())})"
    return f"{name}={value if own not in TEXTS and is_plain(value) else quoted(value)}"


NUMBERS = {"cut", "blocks", "mean", "std", "modules", "betas", "block_rates", "milestones"}
LISTS = NUMBERS | {"augment", "preprocess", "windows", "no_decay", "splits", "ignore"}
PAIRS = {"value_range"}
"""Arguments that are several words on a command line."""
OPTIONS = {"model_args", "objective_args", "optimizer_args", "data_args"}
"""Arguments that are options by their names."""
TEXTS = {"pretrained", "device", "out", "address", "from_dir"}
"""Arguments that are texts, even where they look like numbers."""
ARGUMENTS = {"model": "network", "objective": "objective", "data": "data"}
"""What in Python is an argument of its own of `Pipeline` or `fit`, rather than a setting."""


def in_call(options: Iterable[str]) -> str:
    """Options of a command line as keyword arguments: `kernel=3`, `widths=(4, 8)`, `hard=True`."""
    return ", ".join(f"{name}={as_value(value)}" for name, _, value in (each.partition("=") for each in options))


def as_value(text: str) -> str:
    """An option's value, in Python's own code."""
    words = {"yes": "True", "no": "False", "true": "True", "false": "False", "none": "None"}
    if "," in text:
        return f"({', '.join(map(as_value, text.split(',')))})"
    return words.get(text, text if is_plain(text) else quoted(text))


def is_plain(value: str) -> bool:
    """True if a text is a number, True, False or None in Python."""
    try:
        return not isinstance(ast.literal_eval(value), (str, tuple))
    except (ValueError, SyntaxError):
        return False


def quoted(word: str) -> str:
    """A text as one in Python's own code."""
    return json.dumps(word, ensure_ascii=False)


def as_flag(name: str) -> str:
    """A field, or another name of an argument, as the command line spells it."""
    return f"--{name.rpartition('.')[2].replace('_', '-')}"


def as_flags(name: str, value: str | None) -> str:
    """`--lr`, `--stages 2`, `--no-fusion`."""
    flag = as_flag(OTHERWISE.get(name, name))
    if value is None:
        return flag
    return f"--{SWITCHES[value]}{flag[2:]}" if value in SWITCHES else f"{flag} {value}"


SWITCHES = {"True": "", "False": "no-"}
"""Prefixes of the flags of switches, which take no value."""
OTHERWISE = {"from_dir": "from"}
"""Settings whose flags are not their names in Python."""


def spelled(text: str, spell: Callable[[str, str | None], str] = as_field) -> str:
    """A text with its settings as `spell` has them."""
    before, *rest = text.split(BEGIN)
    for part in rest:
        inside, _, after = part.partition(END)
        name, equals, value = inside.partition(EQUALS)
        before += spell(name, value if equals else None) + after
    return before
