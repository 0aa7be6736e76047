"""Arguments given in Python, as settings; a rule by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin

import torch

from ffdist.errors import ConfigError, setting
from ffdist.objectives import Objective, load_objective
from ffdist.options import nearest, text_of
from ffdist.plan import Plan
from ffdist.settings import GROUP_OF, GROUPS, Settings, kind_of
from ffdist.settings.base import as_words
from ffdist.spelling import in_call, is_plain

OWN = {
    "data": "the first argument of fit",
    "model": "the first argument of Pipeline",
    "network": "the first argument of Pipeline",
    "objective": "the second argument of Pipeline",
}
"""Settings that are arguments of their own in Python."""
OTHERS = {
    "preset": "settings=ffdist.presets.with_preset(ffdist.Settings(), NAME)",
    "config": "settings=ffdist.settings.toml.settings_in(FILE)",
    "resume": "fit(data, out=RUN, resume=True), or Pipeline.resume(RUN)",
    "test": "fit(data, test=...)",
    "progress": "fit(data, progress=...)",
    **{name: f"settings=ffdist.Settings({name}=...), or its fields by their own names" for name in GROUPS.keys() - OWN},
}
"""Names that people try, and what to write instead."""


def as_settings(given: Settings | None, default: Settings) -> Settings:
    """The settings that were given, or the default ones. Raises ConfigError for what are no settings."""
    if given is not None and not isinstance(given, Settings):
        raise ConfigError(
            "settings is not a Settings object",
            where="Pipeline",
            expected="ffdist.Settings(...)",
            got=f"a {type(given).__name__}",
            remedy="ffdist.Settings().changed(epochs=30, ...), or give them by name",
        )
    return given or default


def as_fields(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Arguments as fields of the settings; a `Plan` as its text, and its lanes. Raises ConfigError for one that is no
    field, with the nearest."""
    if isinstance(plan := options.get("plan"), Plan):
        lanes = options.get("lanes")
        if lanes not in (None, plan.lanes):
            raise ConfigError("lanes and the plan disagree", where=where, expected=f"{plan.lanes} lanes", got=lanes)
        options = options | {"plan": str(plan), "lanes": plan.lanes}
    for name, value in options.items():
        if name in OWN or (name in OTHERS and name not in GROUP_OF):
            raise ConfigError(
                f"'{name}' is not given like this",
                where=where,
                got=short(value),
                remedy=OTHERS.get(name),
                expected=OWN.get(name),
            )
        if name not in GROUP_OF:
            raise ConfigError(
                f"there is no '{name}'",
                where=where,
                expected=f"an argument of {where}",
                got=f"{name}={short(value)}",
                remedy=nearest(name, GROUP_OF.keys() - OWN),
            )
    if not is_share(options.get("validation")):
        raise ConfigError(
            "a validation set is an argument of fit",
            where=where,
            expected="a share of the training samples",
            got=f"a {type(options['validation']).__name__}",
            remedy="fit(data, validation=...)",
        )
    return {name: as_field(name, value) for name, value in options.items()}


def as_field(name: str, value: Any) -> Any:
    """The value as the settings have it: None for an empty list, options by their names, a device of torch's, an
    optimiser's class, a path where a text may be one.

    Raises ConfigError for one text where a list is wanted.
    """
    many = get_origin(kind_of(name)) is tuple
    if value is None and many:
        return ()
    if name.endswith("_args") and isinstance(value, Mapping):
        return tuple(f"{key}={text_of(option)}" for key, option in value.items())
    if many and isinstance(value, str):
        written = setting(name, as_words(value, kind_of(name))) if value.strip() else None
        raise ConfigError(f"{name} has a wrong value", expected="a list", got=repr(value), remedy=written)
    if isinstance(value, type) and name == "optimizer":
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, PurePath) and not is_path(name):
        return str(value)
    return str(value) if isinstance(value, torch.device) else value


def is_path(name: str) -> bool:
    """True if a field is a path itself, and no text that may be one."""
    return Path in (kind_of(name), *get_args(kind_of(name)))


def short(value: object) -> str:
    """A value, short enough for an error's line."""
    text = repr(value)
    return text if len(text) < 60 and "\n" not in text else f"a {type(value).__name__}"


def check_options(network: object, objective: object, settings: Settings) -> None:
    """Raises ConfigError for options of a name, where no name is given."""
    for name, given, options, kind in (
        ("model_args", network, settings.network.model_args, "network"),
        ("objective_args", objective, settings.rule.objective_args, "rule"),
    ):
        if options and not isinstance(given, str):
            made = f"{type(given).__name__}({in_call(options)})" if kind == "rule" else "made with them"
            raise ConfigError(
                f"{name} are the options of a {kind} that is given by its name",
                where="Pipeline",
                expected=f"{name}=None",
                got=f"{kind} {type(given).__name__}, {name}={list(options)}",
                remedy=f"give the {kind} by its name, or {made}",
            )


def is_share(validation: Any) -> bool:
    """True if it is a number, and no data: None, and a number in a text, count as one."""
    if isinstance(validation, str):
        return is_plain(validation)
    return validation is None or isinstance(validation, (int, float)) or getattr(validation, "ndim", None) == 0


def as_objective(rule: Objective | str) -> Objective:
    """The rule, or the one of that name. Raises ConfigError for what is neither."""
    if isinstance(rule, str):
        return load_objective(rule)
    if not isinstance(rule, Objective):
        name = getattr(rule, "__name__", "SFF")
        raise ConfigError(
            "the objective is not a rule",
            where="Pipeline",
            expected="an Objective, or the name of one",
            got=repr(rule),
            remedy=f"make one: {name}()",
        )
    return rule
