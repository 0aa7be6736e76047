"""The arguments of a Python call, checked by what the command line's flags are checked by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ffdist.config import TrainSettings
from ffdist.errors import ConfigError
from ffdist.options import convert, describe, nearest


def checked(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as the types of `hints`, in the ranges of `TrainSettings`; unlike on a command line, text is no number.

    Raises ConfigError for a name that is not in `hints`, with the nearest, for another type, and for what is out of
    range.
    """
    result = {name: converted(name, value, hints, where) for name, value in values.items()}
    same = {field.name for field in fields(TrainSettings)} - {"windows"}  # which are texts there
    replace(TrainSettings(), **{name: value for name, value in result.items() if name in same})
    return result


def converted(name: str, value: Any, hints: Mapping[str, Any], where: str) -> Any:
    if name not in hints:
        raise ConfigError(f"there is no '{name}'", where=where, expected=f"an argument of {where}",
                          got=f"{name}={value!r}", remedy=nearest(name, hints))  # fmt: skip
    given = plain(value)
    try:
        result = convert(given, hints[name])
        if isinstance(given, str) and not isinstance(result, str):
            raise TypeError(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} has a wrong value", where=where, expected=describe(hints[name]), got=repr(value),
                          remedy=f"see help({where})") from error  # fmt: skip
    return result


def plain(value: Any) -> Any:
    """NumPy's and torch's numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value
