"""Recipes that a side of a comparison may choose for itself: read from a file, crossed with rates and lengths."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ffdist.bench.settings import BASE, BenchSettings
from ffdist.errors import ConfigError
from ffdist.settings import GROUP_OF, Settings, apply, flat
from ffdist.settings.toml import read_toml

SIDES = ("ours", "baseline")
RECIPE = frozenset(name for name, group in GROUP_OF.items() if group in ("optim", "scheduler")) | {
    "epochs",
    "label_smoothing",
}
"""Settings that a side may choose for itself."""


class Recipe(NamedTuple):
    """The settings that a side chooses for itself."""

    values: tuple[tuple[str, Any], ...]
    """Settings by name; always the learning rate, `lr`, and the number of epochs, at most and of the schedule."""

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in self.values)

    @property
    def epochs(self) -> int:
        """Epochs at most, which is also the schedule's length."""
        return dict(self.values)["epochs"]

    @property
    def others(self) -> str:
        """The settings other than learning rate and epochs, as text; empty: there are none."""
        return ", ".join(f"{name} {value_text(value)}" for name, value in self.values if name not in ("lr", "epochs"))


def value_text(value: Any) -> str:
    """A setting's value as text; several are separated by blanks."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def recipes_of(side: str, settings: BenchSettings) -> list[Recipe]:
    """A side's recipes: those of the file, crossed with the learning rates and lengths that they do not set themselves.

    side: "ours" or "baseline". Raises ConfigError for a file that cannot be read, or sets what no recipe may.
    """
    compare, train = settings.compare, settings.train
    tables = read_recipes(compare.recipes).get(side, [{}]) if compare.recipes else [{}]
    recipes: list[Recipe] = []
    for table in tables:
        changed = apply(train, table, str(compare.recipes))
        if strange := [name for name in flat(table) if name not in RECIPE]:
            raise ConfigError(
                f"'{strange[0]}' is not a setting that a side chooses for itself",
                where=compare.recipes,
                expected="settings of the optimiser, the schedule, epochs and label smoothing",
                remedy="on the command line it holds for both sides",
            )
        values = {name: changed.value(name) for name in flat(table)}
        lrs = (values["lr"],) if "lr" in values else compare.lrs or (train.optim.lr,)
        lengths = (values["epochs"],) if "epochs" in values else compare.lengths or (train.training.epochs,)
        recipes += [
            Recipe(tuple((values | {"lr": lr, "epochs": epochs}).items())) for lr, epochs in product(lrs, lengths)
        ]
    return recipes


def read_recipes(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables of a recipe file, by side. Raises ConfigError for a file of another form."""
    found = read_toml(path)
    right = all(isinstance(tables, list) and all(isinstance(t, dict) for t in tables) for tables in found.values())
    if not right or not found.keys() <= set(SIDES):
        raise ConfigError(
            "a file of recipes cannot be used",
            where=path,
            got=", ".join(found),
            expected="[[ours]] and [[baseline]], each as often as there are recipes",
        )
    return found


def scheduled(settings: Settings) -> Settings:
    """The settings with the cosine schedule, unless they say another."""
    return settings.changed(schedule="cosine") if settings.scheduler == BASE.scheduler else settings
