"""The source that a data set is prepared from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ffdist.data.formats import Encoded
from ffdist.data.manifest import HeldOut, LeftOut


class Item(NamedTuple):
    """One sample, not decoded yet."""

    split: str
    """"train", "validation" or "test"."""
    label: int
    data: Encoded
    where: str
    """Its name in errors: a file, or a file and row."""


class DataSource(ABC):
    """Samples with labels, listed when it is opened and read when they are asked for."""

    name: str
    classes: list[str]
    counts: dict[str, int]
    """Samples of each split."""
    held_out: HeldOut | None = None
    """How the test split was drawn, where it is not the source's own."""
    left_out: Sequence[LeftOut] = ()
    """Files or rows that are not taken, with the reason."""
    notes: Sequence[str] = ()
    """Notes for the user on how the source was read."""

    def files_elsewhere(self) -> list[Path]:
        """Files that its samples are read from, and that lie outside of it."""
        return []

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every sample once, always in the same order."""
