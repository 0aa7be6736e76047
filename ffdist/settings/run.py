"""What is kept of a run, and where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class RunSettings(Group):
    """The run directory and its snapshots."""

    group: ClassVar[str] = "run"

    out: Path | None = option(None, free=True)
    """Run directory. Default: a new one below runs/."""
    keep: int = option(2, least=1, free=True, rare=True)
    """Snapshots kept."""
    keep_best: Literal["mean", "last", "weighted"] | None = option(None, free=True)
    """Keep the best epoch's, too. By this predictor's validation accuracy; `--snapshot best` of eval, predict, export
    and report reads it."""
    snapshot_every: int | None = option(None, least=1, free=True)
    """Batches between snapshots within an epoch. Each epoch's end makes one in any case."""
    timeout: float = option(600.0, least=0.1, most=10**6, free=True, rare=True)
    """Seconds until a silent neighbour is hung."""

    def check(self) -> None:
        if isinstance(self.timeout, timedelta):  # as Python has it
            object.__setattr__(self, "timeout", self.timeout.total_seconds())
        super().check()
