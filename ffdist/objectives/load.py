"""The learning rules by name."""

from __future__ import annotations

from collections.abc import Mapping

from ffdist.errors import ConfigError, setting, users_code
from ffdist.known import OBJECTIVE_PLACES, LazyNames
from ffdist.objectives.base import Objective
from ffdist.options import find, typed

OBJECTIVES: Mapping[str, type[Objective]] = LazyNames(OBJECTIVE_PLACES)


def known_objective(kind: type[Objective]) -> str | None:
    """The name of one of ffdist's own rules; None for a user's."""
    place = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, known in OBJECTIVE_PLACES.items() if known == place), None)


def load_objective(name: str, options: Mapping[str, object] | None = None) -> Objective:
    """The objective called `name`, with its fields set from `options`.

    name: a key of `OBJECTIVES`, or a user's own `Objective` as "package.module:Class" or "path/file.py:Class".
    options: text as typed on a command line, or values as TOML has them, by field name.

    Raises ConfigError for an unknown name or option (with the nearest one), and for a value of another type.
    """
    cls = find(name, OBJECTIVES, "objective")
    if not (isinstance(cls, type) and issubclass(cls, Objective)):
        raise ConfigError(
            f"'{name}' is not an objective", expected="a subclass of ffdist.objectives.Objective", got=cls
        )
    with users_code(
        ConfigError,
        "the objective cannot be made",
        where=f"objective {name}",
        expected="a dataclass with the methods `head` and `local`, whose fields have defaults",
        remedy=f"define what is missing, or set the field: {setting('rule.objective_args', 'NAME=VALUE')}",
    ):
        return cls(**typed(cls, options or {}, f"objective {name}"))
