"""A row of `accuracy.toml`: one set of settings, trained with one or several seeds."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path

from ffdist.cli.train import parse
from ffdist.errors import ConfigError
from ffdist.settings import Settings
from ffdist.settings.toml import read_toml


@dataclass(frozen=True)
class Row:
    """A row of the table: what is trained, and what it is held against."""

    name: str
    data: str
    """Name of the data set."""
    args: tuple[str, ...]
    """The arguments of `ffdist train`: a preset, and what differs from it."""
    form: str = ""
    """How it differs from what the paper trained, in a few words; empty for nothing but what the preset says."""
    paper: float | None = None
    """The published accuracy in per cent, for the same network, rule and data."""
    source: str = ""
    """The place of that accuracy in the paper."""
    twin: str | None = None
    """The row of the same network and data by backpropagation."""
    begins_with: str | None = None
    """The row whose trained weights, of seed 0, this one begins with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", tuple(self.args))

    @property
    def is_twin(self) -> bool:
        return self.name.startswith("backprop-")

    @property
    def command(self) -> str:
        """The row as a command line."""
        return shlex.join(["ffdist", "train", *self.args])

    def flags(self, root: Path, seed: int, weights: Path | None = None) -> list[str]:
        """The flags of `ffdist train`, for data sets below `root`. One process, which another number of stages would
        equal.

        weights: file to begin with.
        """
        data = self.data if self.data == "digits" else str(root / self.data)
        begun = [] if weights is None else ["--pretrained", str(weights)]
        return [*self.args, *begun, "--stages", "1", "--data", data, "--seed", str(seed)]

    def settings(self, root: Path, seed: int = 0) -> Settings:
        return parse(self.flags(root, seed)).settings


def read_rows(file: Path) -> dict[str, Row]:
    """The rows by name, in the file's order."""
    return {name: Row(name, **fields) for name, fields in read_toml(file).items()}


def find_row(name: str, rows: dict[str, Row]) -> Row:
    """The row of that name. Raises ConfigError, with the nearest name, where there is none."""
    if name not in rows:
        near = difflib.get_close_matches(name, rows, 3, cutoff=0.3)
        raise ConfigError(f"accuracy.toml has no row '{name}'", where="ROW", remedy=f"did you mean {', '.join(near)}?")
    return rows[name]
