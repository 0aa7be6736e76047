"""All settings of a training run, in groups of a file each; nothing here imports torch.

    settings = Settings(optim=OptimSettings(lr=1e-3), training=TrainingSettings(epochs=30))
    settings = Settings().changed(lr=1e-3, epochs=30)  # the same; no two groups have a field of one name
    settings.optim.lr, settings.training.epochs

Where settings come from: defaults < preset < TOML file < command line, or the arguments of a Python call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from ffdist.errors import ConfigError, setting
from ffdist.options import convert, describe, nearest
from ffdist.settings.base import SettingsGroup, explained, kinds_of_fields
from ffdist.settings.compute import ComputeSettings
from ffdist.settings.dataset import TRANSFORMS, DatasetSettings
from ffdist.settings.network import NetworkSettings, as_counts
from ffdist.settings.optim import OptimSettings
from ffdist.settings.plan import WAYS, PlanSettings
from ffdist.settings.ray import RaySettings
from ffdist.settings.rule import RuleSettings
from ffdist.settings.run import RunSettings
from ffdist.settings.scheduler import SchedulerSettings, as_texts
from ffdist.settings.training import TrainingSettings
from ffdist.settings.watch import WatchSettings
from ffdist.spelling import as_flag

__all__ = [
    "GROUPS",
    "GROUP_OF",
    "ComputeSettings",
    "DatasetSettings",
    "NetworkSettings",
    "OptimSettings",
    "PlanSettings",
    "RaySettings",
    "RuleSettings",
    "RunSettings",
    "SchedulerSettings",
    "Settings",
    "SettingsGroup",
    "TrainingSettings",
    "WatchSettings",
    "apply",
    "as_flag",
    "explained",
    "flat",
    "is_free",
    "kind_of",
    "without_strange_options",
]


@dataclass(frozen=True)
class Settings:
    """All settings of a training run, by groups."""

    network: NetworkSettings = field(default_factory=NetworkSettings)
    rule: RuleSettings = field(default_factory=RuleSettings)
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    run: RunSettings = field(default_factory=RunSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    ray: RaySettings = field(default_factory=RaySettings)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ConfigError for settings that do not go together."""
        for name, kind in GROUPS.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"'{name}' is no group of settings",
                    where="Settings",
                    expected=kind.__name__,
                    got=repr(getattr(self, name)),
                )
        if self.rule.fusion and self.rule.objective == "backprop":
            raise ConfigError(
                f"{setting('rule.fusion', True)} reads the blocks' features", expected="a local rule", got="backprop"
            )

        if self.training.sync_norms and (self.compute.compile or self.compute.precision == "fp16"):
            got = "compute.compile" if self.compute.compile else "compute.precision"
            raise ConfigError(
                f"{setting('training.sync_norms', True)} has blocks wait for one another in the middle",
                expected="uncompiled blocks in fp32 or bf16",
                got=setting(got, self.value(got.split(".")[1])),
            )

    def changed(self, **values: Any) -> Settings:
        """The same settings with other values of some fields, by the fields' own names.

        Raises ConfigError for a name that is no field's, with the nearest, for a wrong type, and for what is out of
        range.
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in (values | in_place_of(values)).items():
            if name not in GROUP_OF:
                raise unknown_setting_error(name, GROUP_OF)
            changes.setdefault(GROUP_OF[name], {})[name] = value
        groups = {group: dataclasses.replace(getattr(self, group), **own) for group, own in changes.items()}
        return dataclasses.replace(self, **groups)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Each field's own name and value."""
        for name, group in GROUP_OF.items():
            yield name, getattr(getattr(self, group), name)

    def value(self, name: str) -> Any:
        """The value of the field of this name."""
        return getattr(getattr(self, GROUP_OF[name]), name)


GROUPS: dict[str, type[SettingsGroup]] = {
    f.name: get_type_hints(Settings)[f.name] for f in dataclasses.fields(Settings)
}
"""The groups by name."""
GROUP_OF: dict[str, str] = {field_.name: name for name, group in GROUPS.items() for field_ in dataclasses.fields(group)}
"""The group of each field, by the field's own name: no two groups have one of the same name."""


def kind_of(name: str) -> Any:
    """The type of a field."""
    return kinds_of_fields(GROUPS[GROUP_OF[name]])[name]


def is_free(name: str) -> bool:
    """True if a field may differ when a run is resumed: where it runs, and what is kept; all else decides what it
    learns."""
    (found,) = (f for f in dataclasses.fields(GROUPS[GROUP_OF[name]]) if f.name == name)
    return found.metadata.get("free", False)


def in_place_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults for the settings that said who computes what, where these options say it in another way: the last one
    counts."""
    ways = [way for way in WAYS if any(options.get(name) for name in way)]
    if len(ways) != 1:
        return {}
    stays = ways[0] + (("devices",) if options.get("plan") == "auto" else ("plan",) if options.get("devices") else ())
    default = PlanSettings()
    return {name: getattr(default, name) for way in WAYS for name in way if name not in options and name not in stays}


def unknown_setting_error(name: str, names: Collection[str], where: object = None) -> ConfigError:
    """The error for a setting that is none of `names`, with the nearest of them."""
    near = nearest(name, names)
    return ConfigError(
        f"unknown setting '{name}'", where=where, remedy=near if len(near) < 200 else "`ffdist settings` lists all"
    )


def flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The keys of a TOML file by the fields' own names: those in the tables of groups, and those outside of any, as
    older files have them. Dashes are underscores.

    Raises ConfigError for a key that stands in another group's table, or is given twice.
    """
    result: dict[str, Any] = {}
    found: dict[str, str] = {}
    for key, value in values.items():
        for name, spelled, inner in _leaves(key, value, where):
            if name in result:
                raise ConfigError(
                    f"'{name}' is set twice",
                    where=where or None,
                    got=f"{found[name]} and {spelled}",
                    remedy="leave one of them out",
                )
            result[name], found[name] = inner, spelled
    return result


def _leaves(key: str, value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """A key of a file, or those in the table of a group: the field's name, how it is written, its value."""
    name = key.replace("-", "_")
    if name not in GROUPS or (name in GROUP_OF and not isinstance(value, Mapping)):  # `plan` is both
        yield name, key, value
        return
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"'{key}' is a group of settings", where=where or None, expected=f"a table: [{key}]", got=repr(value)
        )
    for inner, inner_value in value.items():
        leaf = inner.replace("-", "_")
        if leaf in GROUP_OF and name not in (GROUP_OF[leaf], FORMER.get(leaf)):
            raise ConfigError(
                f"'{inner}' is no setting of [{key}]", where=where or None, remedy=f"it belongs to [{GROUP_OF[leaf]}]"
            )
        if leaf not in GROUP_OF:
            raise unknown_setting_error(inner, [f.name for f in dataclasses.fields(GROUPS[name])], f"{where}, [{key}]")
        yield leaf, f"[{key}] {inner}", inner_value


def apply(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    """`settings` with a file's or a preset's values in place of their own.

    Raises ConfigError for an unknown key or a value of the wrong type.
    """
    changes = {}
    for name, value in flat(values, where).items():
        if name not in GROUP_OF:
            raise unknown_setting_error(name, [*GROUP_OF, *GROUPS], where)
        if name in TRANSFORMS:
            changes[name] = value
            continue
        try:
            changes[name] = convert(CONVERTERS.get(name, as_options)(value), kind_of(name))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"'{name}' has a wrong value", where=where, expected=describe(kind_of(name)), got=repr(value)
            ) from error
    return without_strange_options(settings.changed(**changes), settings, changes)


FORMER = {"max_restarts": "ray"}
"""The groups of some fields in files of older versions."""
CONVERTERS = {"windows": as_texts, "modules": as_counts}
"""How values of some fields may be written in a file."""


def as_options(value: Any) -> Any:
    """A TOML table of options as key=value texts."""
    if not isinstance(value, Mapping):
        return value
    return [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items()]


def without_strange_options(settings: Settings, before: Settings, typed: Collection[str]) -> Settings:
    """`settings` without what was for `before`'s network, rule or optimiser, where these are others now: their options,
    the windows and factors of blocks, and joined blocks.

    typed: names of the settings that are said anew, and so stay.
    """
    changed = [name for name in ("model", "objective") if settings.value(name) != before.value(name)]
    strange = [f"{name}_args" for name in changed] + ["windows", "block_rates"] * bool(changed)
    strange += ["blocks", "modules"] * ("model" in changed)
    if settings.optim.optimizer != before.optim.optimizer:
        strange.append("optimizer_args")
    return settings.changed(**{name: () for name in strange if name not in typed})
