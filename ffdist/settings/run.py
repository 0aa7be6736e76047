"""The run: what is kept of it, and where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class RunSettings(SettingsGroup):
    """The run folder and its snapshots."""

    group: ClassVar[str] = "run"

    out: Path | None = option(None, free=True)
    """Run folder. Default: a new one below runs/."""
    keep: int = option(2, ge=1, free=True, rare=True)
    """How many of the newest snapshots to keep."""
    keep_best: Literal["mean", "last", "weighted"] | None = option(None, free=True, alone="mean")
    """Keep the best snapshot, too. The best epoch's, by this predictor's validation accuracy, the mean of blocks' where
    none is named; `--snapshot best` of eval, predict, export and report reads it."""
    snapshot_every: int | None = option(None, ge=1, free=True)
    """Batches between snapshots within an epoch. Each epoch's end makes one in any case. Written while the stages
    learn on: each holds a copy of its blocks and moments meanwhile."""
    max_restarts: int = option(3, ge=0, free=True, rare=True)
    """Restarts in a row after a worker is lost. Each goes on from the last snapshot; a new snapshot begins the count
    anew."""
    timeout: float = option(120.0, ge=0.1, le=10**6, free=True, rare=True)
    """Seconds without a sign of life before a worker counts as hung. One that lives may take ten times as long for a
    step, but for threads."""

    def check(self) -> None:
        if isinstance(self.timeout, timedelta):  # as Python has it
            object.__setattr__(self, "timeout", self.timeout.total_seconds())
        super().check()
