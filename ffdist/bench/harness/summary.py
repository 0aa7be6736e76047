"""Medians with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Summary(NamedTuple):
    """Median, minimum and maximum of n figures; all NaN where there are none."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of these figures."""
        if not values:
            return cls(float("nan"), float("nan"), float("nan"), 0)
        return cls(median(values), min(values), max(values), len(values))

    def facts(self, name: str) -> dict[str, float | int]:
        """The fields that `--json` prints."""
        return {name: self.median, f"{name}_min": self.min, f"{name}_max": self.max, "n": self.n}

    def __str__(self) -> str:
        return f"{self.median:,.4g} ({self.min:,.4g} to {self.max:,.4g})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """Ratios pair by pair, each of two figures taken one after the other."""
    return Summary.of([a / b for a, b in zip(ours, theirs, strict=True)])
