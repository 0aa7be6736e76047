"""The parts of every group of settings: fields with a type, a default, a range and an explanation, checked when a
group is made."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import shlex
import textwrap
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from ffdist.errors import ConfigError, setting
from ffdist.options import describe, given_as


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, each of which may be missing."""

    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None

    def __str__(self) -> str:
        low = f"{self.ge:g} <= " if self.ge is not None else f"{self.gt:g} < " if self.gt is not None else ""
        high = f" <= {self.le:g}" if self.le is not None else f" < {self.lt:g}" if self.lt is not None else ""
        if low and high:
            return f"{low}x{high}"
        return f">= {self.ge:g}" if self.ge is not None else f"> {self.gt:g}" if low else high.strip()

    def too_small(self, value: float) -> bool:
        """True if a number is below its lower bound."""
        return (self.ge is not None and value < self.ge) or (self.gt is not None and value <= self.gt)

    def too_large(self, value: float) -> bool:
        """True if a number is above its upper bound."""
        return (self.le is not None and value > self.le) or (self.lt is not None and value >= self.lt)


def option(
    default: Any,
    *,
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
    free: bool = False,
    rare: bool = False,
    alone: str | None = None,
) -> Any:
    """A field of a group; its explanation is the text below it, which `--help` shows, too.

    ge, le, gt, lt: the bounds of its range (>=, <=, >, <). free: whether it decides nothing that a run learns, so that
    it may differ when a run is resumed. rare: whether help only names it, where it is at its default. alone: the value
    that its option stands for where the command line has none after it, and True in Python.
    """
    bounds = Range(ge, le, gt, lt)
    return dataclasses.field(default=default, metadata={"range": bounds, "free": free, "rare": rare, "alone": alone})


@dataclass(frozen=True)
class SettingsGroup:
    """A frozen dataclass of `option`s with a name among the settings."""

    group: ClassVar[str]

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Each value as its type. Raises ConfigError, naming the field, for another type and for what is out of its
        range."""
        kinds = kinds_of_fields(type(self))
        for f in dataclasses.fields(self):
            name, value = setting(f"{self.group}.{f.name}"), getattr(self, f.name)
            if value is f.default:
                continue
            if isinstance(value, bool) and (alone := f.metadata.get("alone")) is not None:
                value = alone if value else f.default
            try:
                value = given_as(value, kinds[f.name])
            except (TypeError, ValueError, OverflowError) as error:
                raise wrong_value_error(f"{self.group}.{f.name}", kinds[f.name], value) from error
            check_number(name, value, f.metadata.get("range", Range()))
            object.__setattr__(self, f.name, at_home(value))


def at_home(value: Any) -> Any:
    """A text, or texts, with a `~` at the beginning as a shell has it, as `options.path_of` does of paths: where a text
    begins so it is a path, of data, a file or code."""
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def wrong_value_error(name: str, kind: Any, value: object) -> ConfigError:
    """The error for a setting, by its full name, of another type than its own."""
    expected, remedy = describe(kind), None
    if get_origin(kind) is tuple:
        expected = f"a list of: {describe(get_args(kind)[0])}"
        if isinstance(value, str) and value.strip():
            remedy = setting(name, as_words(value, kind))
    return ConfigError(f"{setting(name)} has a wrong value", expected=expected, got=repr(value), remedy=remedy)


def as_words(text: str, kind: Any) -> str:
    """One text where a list is wanted, as the words of a command line: options may have commas in them."""
    words = (text if get_args(kind)[0] is str else text.replace(",", " ")).split()
    return " ".join(shlex.quote(word.strip(",")) for word in words if word.strip(","))


def check_number(name: str, value: Any, bounds: Range) -> None:
    """Raises ConfigError for a number that is none, too small or too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"{name} is not a finite number", got=value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{name} is too large", expected="less than 2^63", got=f"{len(str(abs(value)))} digits")
    if bounds.too_small(value):
        raise ConfigError(f"{name} is too small", expected=bounds, got=value)
    if bounds.too_large(value):
        raise ConfigError(f"{name} is too large", expected=bounds, got=value)


@cache
def kinds_of_fields(group: type) -> dict[str, Any]:
    """The type of each field by name."""
    return get_type_hints(group)


@cache
def explained(group: type) -> dict[str, str]:
    """The explanations below each field of a dataclass in its source, by name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for named, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(named, ast.AnnAssign) and isinstance(named.target, ast.Name) and isinstance(text, ast.Expr):
            texts[named.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts
