"""The arguments of a Python call, checked by what the command line's flags are checked by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from ffdist.config import TrainSettings
from ffdist.errors import ConfigError, FfdistError
from ffdist.options import describe, given_as, nearest


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
    try:
        return given_as(value, hints[name])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} has a wrong value", where=where, expected=describe(hints[name]), got=repr(value),
                          remedy=f"see help({where})") from error  # fmt: skip


@contextmanager
def spelled_as_arguments() -> Iterator[None]:
    """Inside, errors of settings name them as a Python call does: batch_size for --batch-size."""
    try:
        yield
    except FfdistError as error:
        error.args = tuple(
            re.sub(r"(?:ffdist [^,;]*)?--([a-z]+(?:-[a-z]+)*)", as_argument, text) for text in error.args
        )
        raise


def as_argument(flag: re.Match[str]) -> str:
    """Options of a network or a rule are arguments of their own there, and have no such name; what stands in a command
    stays as it is."""
    if flag[0].startswith("ffdist "):
        return flag[0]
    name = flag[1].replace("-", "_")
    if name not in {f.name for f in fields(TrainSettings)} - {"model_args", "objective_args"}:
        return flag[0]
    return f"{name}=True" if isinstance(getattr(TrainSettings(), name), bool) else name
