"""Things called by a name, with typed settings: objectives and models as the command line and a TOML file give them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ffdist.errors import ConfigError, users_code
from ffdist.trust import check_trusted

T = TypeVar("T")
MAX_CODE = 1 << 26
"""Bytes of a file of code, at most."""


ALIASES = {
    "learning_rate": "lr",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "bs": "batch_size",
    "validation_split": "validation",
    "val_fraction": "validation",
    "grad_clip": "clip",
    "max_norm": "clip",
    "scheduler": "schedule",
    "early_stopping": "early_stop",
    "batchsize": "batch_size",
    "batch": "batch_size",
    "dataset": "data",
    "network": "model",
    "arch": "model",
    "rule": "objective",
    "output": "out",
    "output_dir": "out",
    "out": "to",
    "gpus": "stages",
    "wd": "weight_decay",
    "lr_scheduler": "schedule",
    "num_workers": "workers",
    "img_size": "image_size",
}
"""What other libraries call some settings."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest one, else all of them."""
    names = sorted(names)
    alike = [ALIASES.get(name), *(each for each in names if each.lower() == name.lower())]
    close = [each for each in alike if each in names] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(names)}"


def find(name: str, known: Mapping[str, T], kind: str) -> T | Any:
    """Find what `name` stands for: an entry of `known`, or a user's own as "package.module:Name" or
    "path/file.py:Name".

    Raises ConfigError for a name that is neither, and for code that somebody's file names, and nobody trusts.
    """
    if name in known:
        return known[name]
    check_trusted(name)
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ConfigError(
            f"there is no {kind} '{name}'",
            expected=f"a known {kind}, module:Name or file.py:Name",
            got=name,
            remedy=nearest(name, known),
        )
    module = _import(place, kind)
    if not hasattr(module, attribute):
        raise ConfigError(
            f"'{place}' has no '{attribute}'",
            where=f"{kind} {name}",
            remedy=nearest(attribute, [n for n, value in vars(module).items() if n[0] != "_" and callable(value)]),
        )
    return getattr(module, attribute)


def _import(place: str, kind: str) -> types.ModuleType:
    """A module by its dotted name, looked for in the working directory too (or in the folder before its last "/"), or
    by its file.

    The folder joins `sys.path`, so that a process started later finds the module again.
    """
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise ConfigError(f"there is no file '{place}'", where=f"{kind} {place}:...", got=str(path.absolute()))
    in_folder = is_file or path.parent != Path()
    folder = str(path.absolute().parent if in_folder else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    if is_file and (size := path.stat().st_size) > MAX_CODE:  # Python would read all of it
        raise ConfigError(
            f"'{place}' is too large for code",
            where=f"{kind} {place}:...",
            expected=f"{MAX_CODE:,} bytes at most",
            got=f"{size:,}",
        )
    module_name = path.stem if is_file else path.name
    with users_code(ConfigError, f"'{place}' cannot be imported", where=f"{kind} {place}:..."):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):  # it is there, and what it imports is not
                raise
            raise ConfigError(
                f"cannot import '{place}'",
                where=f"{kind} {place}:...",
                got=str(error),
                remedy="check the spelling, or give the file: path/file.py:Name",
            ) from error
    found = Path(getattr(module, "__file__", None) or "").resolve()
    if in_folder and (found != path.resolve() if is_file else Path(folder).resolve() not in found.parents):
        raise ConfigError(
            f"another module is called '{module_name}'",
            where=f"{kind} {place}:...",
            expected=str(path.resolve()),
            got=getattr(module, "__file__", "a built-in module"),
            remedy="give the file another name",
        )
    return module


def typed(call: Callable[..., Any], options: Mapping[str, object], where: str, *, skip: int = 0) -> dict[str, Any]:
    """Keyword arguments for `call`: each option converted to the type that `call` declares for it, or to that of its
    default, or to what it looks like.

    call: a dataclass or function, of whose parameters the first `skip` are not options.
    options: text as typed on a command line, or values as TOML has them.

    Raises ConfigError for an option that `call` does not take, or whose value is not of its type.
    """
    parameters = list(inspect.signature(call).parameters.values())[skip:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    kinds = kinds_of(call)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in names and not any_name:
            remedy = nearest(name, names) if names else "it has no options"
            raise ConfigError(f"unknown option '{name}'", where=where, remedy=remedy)
        kind = kinds.get(name, Any) if name in names else Any
        try:
            values[name] = convert(value, kind)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"option '{name}' has a wrong value", where=where, expected=describe(kind), got=repr(value)
            ) from error
    return values


def kinds_of(call: Callable[..., Any]) -> dict[str, Any]:
    """The type of each parameter by name: as declared, else its default's, else `Any`."""
    owner = call.__init__ if isinstance(call, type) and not is_dataclass(call) else call
    try:
        declared = get_type_hints(owner)
    except Exception:  # an annotation that names nothing, which only matters for that parameter
        declared = {name: _resolved(note, owner) for name, note in getattr(owner, "__annotations__", {}).items()}
    parameters = inspect.signature(call).parameters
    return {
        name: kind if (kind := declared.get(name, Any)) is not Any else _kind_of_default(p.default)
        for name, p in parameters.items()
    }


def _resolved(note: object, owner: object) -> Any:
    """An annotation that may be text, by itself."""
    try:
        holder = SimpleNamespace(__annotations__={"it": note})
        return get_type_hints(holder, getattr(owner, "__globals__", vars(sys.modules[owner.__module__])))["it"]
    except Exception:  # it names nothing, or raises: the value counts as what it looks like
        return Any


def _kind_of_default(default: object) -> Any:
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return int | float if isinstance(default, int) else float
    if isinstance(default, (tuple, list)):
        inner = _kind_of_default(default[0]) if default else Any
        return list[inner] if isinstance(default, list) else tuple[inner, ...]
    return type(default) if isinstance(default, (str, Enum)) else Any


def pairs(args: tuple[str, ...], where: str) -> dict[str, str]:
    """key=value texts as a mapping."""
    for arg in args:
        if "=" not in arg:
            raise ConfigError("an option is key=value", where=where, got=arg)
    return dict(arg.split("=", 1) for arg in args)


def checked_value(name: str, value: object, kind: Any, where: str) -> Any:
    """A value given in Python, as its type; unlike on a command line, text is no number. Types beyond numbers, texts,
    choices, and rows of these are not looked into.

    Raises ConfigError for a value of another type, and for a number that is not finite.
    """
    if not _is_plain(kind):
        return value
    try:
        result = given_as(value, kind)
        if isinstance(result, float) and not isfinite(result):
            raise ValueError(result)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} has a wrong value", where=where, expected=describe(kind), got=repr(value)) from error
    return result


def given_as(value: object, kind: Any) -> Any:
    """`convert`, but for text, which is not read as another type; NumPy's and torch's numbers are Python's."""
    given = as_python(value)
    result = convert(given, kind)
    if isinstance(given, str) and not isinstance(result, (str, Path)):
        raise TypeError(given)
    return result


def as_python(value: Any) -> Any:
    """NumPy's and torch's numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return [as_python(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def check_fields(made: Any, where: str) -> None:
    """The fields of a frozen dataclass that was made in Python, set to their types. Raises as `checked_value`."""
    kinds = kinds_of(type(made))
    for f in fields(made):
        value = getattr(made, f.name)
        if f.init and value is not f.default:
            object.__setattr__(made, f.name, checked_value(f.name, value, kinds.get(f.name, Any), where))


def _is_plain(kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType, tuple, list, Sequence):
        return all(a in (Ellipsis, type(None)) or _is_plain(a) for a in args)
    return origin is Literal or kind in (int, float, bool, str)


def path_of(value: str | Path) -> Path:
    """A path, `~` as a shell has it, which leaves it alone after --out= and knows nothing of Python and files."""
    return Path(os.path.expanduser(value))


_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert(value: object, kind: Any) -> Any:
    """`value` as a bool, int, float, str, `Literal`, optional, or tuple of these; ValueError where it is not one.

    As text a tuple is "1,2,3", and a tuple of tuples "0,11;0,16".
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal(value, args)
    if origin in (Union, types.UnionType):
        return _optional(value, args)
    if origin in (tuple, list, Sequence) or kind in (tuple, list):
        parts = _tuple(value, args or (Any, ...))
        return list(parts) if list in (origin, kind) else parts
    if kind is Any:
        return _looks_like(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(value, kind)
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLS[_text(value).lower()] if _is_bool(value) else _refuse(value)
    if isinstance(value, bool):
        return _refuse(value)
    if kind is int:
        return value if isinstance(value, int) else int(_text(value))
    if kind is float:
        return float(value) if isinstance(value, (int, float)) else float(_text(value))
    if kind is Path:
        return path_of(value) if isinstance(value, (str, Path)) and str(value).strip() else _refuse(value)
    return _text(value)


def _looks_like(value: object) -> Any:
    """Text as what it looks like; all else as it is."""
    if not isinstance(value, str):
        return value
    named = {"none": None, "true": True, "false": False}
    if value.strip().lower() in named:
        return named[value.strip().lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _member(value: object, kind: type[Enum]) -> Enum:
    """A member of an enumeration, by itself, its name or its value."""
    for member in kind:
        if value is member or value == member.name or value == member.value or value == str(member.value):
            return member
    return _refuse(value)


def _refuse(value: object) -> Any:
    raise ValueError(value)


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else _refuse(value)


def _is_bool(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in _BOOLS


def _literal(value: object, choices: tuple[Any, ...]) -> Any:
    matches = [choice for choice in choices if value == choice or value == str(choice)]
    return matches[0] if matches else _refuse(value)


def _optional(value: object, kinds: tuple[Any, ...]) -> Any:
    if value is None or value == "none":
        return None if type(None) in kinds else _refuse(value)
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(value, kind)
            except ValueError:
                continue
    return _refuse(value)


def _tuple(value: object, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    nested = get_origin(kinds[0]) in (tuple, list, Sequence)
    if isinstance(value, str):
        value = [part for part in value.split(";" if nested else ",") if part.strip()]
    if not isinstance(value, Sequence):
        return _refuse(value)
    repeated = len(kinds) == 1 or kinds[-1] is Ellipsis
    if not repeated and len(value) != len(kinds):
        return _refuse(value)
    return tuple(convert(v, kinds[0] if repeated else kinds[i]) for i, v in enumerate(value))


def text_of(value: object) -> str:
    """A value as it is typed on a command line, the inverse of `convert`."""
    if isinstance(value, (tuple, list)):
        nested = any(isinstance(part, (tuple, list)) for part in value)
        return (";" if nested else ",").join(map(text_of, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    return repr(value) if isinstance(value, (int, float)) else str(value)


def describe(kind: Any) -> str:
    """A type in a user's words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else describe(a) for a in args)
    if origin in (tuple, list, Sequence):
        repeated = len(args) == 1 or args[-1] is Ellipsis
        separator = ";" if get_origin(args[0]) in (tuple, list, Sequence) else ","
        return separator.join([describe(args[0]), "..."] if repeated else map(describe, args))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(member.name for member in kind)
    if kind in (tuple, list):
        return "values,..."
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return words.get(kind, str(kind))
