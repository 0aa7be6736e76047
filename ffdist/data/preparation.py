"""The settings by which a source becomes samples: in the same words in Python, for `data prepare` and --data-args."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ffdist.data.column_names import IMAGE, LABEL, Columns
from ffdist.data.decode import Decoding, Mode, Size, check_options
from ffdist.data.places import CACHE
from ffdist.data.sources.shares import HoldOutOptions
from ffdist.data.sources.splits import read_splits
from ffdist.data.storing import Store
from ffdist.errors import ConfigError, FfdistError, setting, spelled
from ffdist.options import text_of, typed


@dataclass(frozen=True)
class Preparation:
    """The arguments of `prepare` that decide what comes of a source. Raises ConfigError for those out of range."""

    size: str | None = None
    mode: Mode = "keep"
    background: str = "white"
    value_range: tuple[float, float] | None = None
    image_column: str = IMAGE
    label_column: str = LABEL
    group_column: str | None = None
    group_pattern: str | None = None
    drop_columns: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    skip_broken: bool = False
    store: Store = "auto"
    test_fraction: float | None = None
    validation_fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for read in (lambda: self.decoding, lambda: self.holding, lambda: read_splits(self.splits)):
            read()

    @property
    def decoding(self) -> Decoding:
        """The settings by which pictures are decoded."""
        return check_options(sides(self.size), self.mode, self.background, self.value_range)

    @property
    def columns(self) -> Columns:
        """The columns of a table."""
        return Columns(self.image_column, self.label_column, self.group_column)

    @property
    def holding(self) -> HoldOutOptions:
        """The settings of held-out shares."""
        return HoldOutOptions(self.test_fraction, self.validation_fraction, self.seed, self.group_pattern)

    def texts(self) -> tuple[str, ...]:
        """The settings that differ from their defaults, as `name=value`."""
        changed = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default)
        return tuple(f"{name}={text_of(value)}" for name, value in changed)


def from_texts(texts: Sequence[str], where: str) -> Preparation:
    """A preparation from `name=value` texts. Raises ConfigError for an unknown name, with the nearest, and for a value
    of another type."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError("an option is name=value", where=where, expected="NAME=VALUE", got=text)
        options[name.strip().replace("-", "_")] = value
    return Preparation(**typed(Preparation, options, where))


def from_values(values: Mapping[str, Any]) -> Preparation:
    """A preparation from what Python's callers write: a size as numbers, splits as a mapping, one name for a list of
    one."""
    options = dict(values)
    if (size := options.get("size")) is not None and not isinstance(size, str):
        options["size"] = str(size) if isinstance(size, int) else "{}x{}".format(*size)
    if isinstance(splits := options.get("splits"), Mapping):
        pairs = [(split, [patterns] if isinstance(patterns, str) else patterns) for split, patterns in splits.items()]
        options["splits"] = tuple(f"{split}={name}" for split, patterns in pairs for name in patterns)
    for name in ("splits", "ignore"):
        if isinstance(options.get(name), str):
            options[name] = (options[name],)
    return Preparation(**typed(Preparation, {k: v for k, v in options.items() if v is not None}, "open_data"))


def sides(text: str | None) -> int | Size | None:
    """SIDE or HEIGHTxWIDTH. Raises ConfigError for anything else."""
    try:
        numbers = [int(part) for part in (text or "").lower().split("x") if text]
    except ValueError:
        numbers = [0]
    if len(numbers) > 2 or min(numbers, default=1) < 1:
        raise ConfigError(
            "a size is one or two whole numbers", where=setting("size"), expected="e.g. 64, or 48x64", got=text
        )
    return None if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


NAMES = {f.name for f in fields(Preparation)}


def as_data_args(error: FfdistError) -> FfdistError:
    """An error of preparing, for who has given a source to a run: its remedies in words of the run's settings."""

    def spell(name: str, value: str | None) -> str:
        if name == "size" and value is not None and value.isdecimal():
            return setting("dataset.image_size", value)
        if name in ("out", "cache"):
            return CACHE if value is None else f"{CACHE}={value}"
        if name == "from_dir":
            return setting("dataset.data_root", value)
        if name not in NAMES:
            return setting(name, value)
        text = "..." if value is None else text_of(tuple(words(value)))
        return setting("dataset.data_args", shlex.quote(f"{name}={text}"))

    changed = {key: spelled(text, spell) if isinstance(text, str) else text for key, text in error.details.items()}
    return error.again(**changed)


def words(value: str) -> list[str]:
    """The words of a value, split as a shell splits them."""
    try:
        return shlex.split(value)
    except ValueError:  # quotes that do not end
        return [value]
