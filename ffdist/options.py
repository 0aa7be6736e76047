"""Things called by a name, with typed settings: objectives and models as the command line and a TOML file give them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ffdist.errors import ConfigError, users_code

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy for a mistyped name: the nearest one, else all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(names)}"


def find(name: str, known: Mapping[str, T], kind: str) -> T | Any:
    """What `name` stands for: an entry of `known`, or a user's own as "package.module:Name" or "path/file.py:Name".

    Raises ConfigError for a name that is neither.
    """
    if name in known:
        return known[name]
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ConfigError(f"there is no {kind} '{name}'", expected=f"a known {kind}, module:Name or file.py:Name",
                          got=name, remedy=nearest(name, known))  # fmt: skip
    module = _import(place, kind)
    if not hasattr(module, attribute):
        raise ConfigError(f"'{place}' has no '{attribute}'", where=f"{kind} {name}",
                          remedy=nearest(attribute, [n for n in vars(module) if not n.startswith("_")]))  # fmt: skip
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
    module_name = path.stem if is_file else path.name
    with users_code(ConfigError, f"'{place}' cannot be imported", where=f"{kind} {place}:..."):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):  # it is there, and what it imports is not
                raise
            raise ConfigError(f"cannot import '{place}'", where=f"{kind} {place}:...", got=str(error),
                              remedy="check the spelling, or give the file: path/file.py:Name") from error  # fmt: skip
    found = Path(getattr(module, "__file__", None) or "").resolve()
    if in_folder and (found != path.resolve() if is_file else Path(folder).resolve() not in found.parents):
        raise ConfigError(f"another module is called '{module_name}'", where=f"{kind} {place}:...",
                          expected=str(path.resolve()), got=getattr(module, "__file__", "a built-in module"),
                          remedy="give the file another name")  # fmt: skip
    return module


def typed(call: Callable[..., Any], options: Mapping[str, object], where: str, *, skip: int = 0) -> dict[str, Any]:
    """Keyword arguments for `call`: each option converted to the type that `call` declares for it.

    call: a dataclass or function with annotated parameters, of which the first `skip` are not options.
    options: text as typed on a command line, or values as TOML has them.

    Raises ConfigError for an option that `call` does not take, or whose value is not of its type.
    """
    parameters = list(inspect.signature(call).parameters.values())[skip:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    hints = get_type_hints(call.__init__ if isinstance(call, type) and not is_dataclass(call) else call)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in names:
            remedy = nearest(name, names) if names else "it has no options"
            raise ConfigError(f"unknown option '{name}'", where=where, remedy=remedy)
        kind = hints.get(name, str)
        try:
            values[name] = convert(value, kind)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"option '{name}' has a wrong value", where=where, expected=describe(kind),
                              got=repr(value)) from error  # fmt: skip
    return values


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
    if origin in (tuple, list, Sequence):
        return _tuple(value, args)
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLS[_text(value).lower()] if _is_bool(value) else _refuse(value)
    if isinstance(value, bool):
        return _refuse(value)
    if kind is int:
        return value if isinstance(value, int) else int(_text(value))
    if kind is float:
        return float(value) if isinstance(value, (int, float)) else float(_text(value))
    return _text(value)


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
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))
