"""Weights & Biases; offline with WANDB_MODE=offline, files in RUN/wandb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.trackers.base import Tracker, missing_package_error


class WandB(Tracker):
    """Project, entity and mode come from its own environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE."""

    name = "wandb"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(run, settings)
        try:
            import wandb
        except ImportError as error:
            raise missing_package_error(self.name, "wandb", error) from error
        self.wandb = wandb
        self.kept = None

    def begin(self, step: int) -> None:
        known = self.recall()
        self.kept = self.wandb.init(
            id=known,
            resume="allow" if known else None,
            dir=str(self.run),
            name=self.run.name,
            config=self.settings,
            reinit="finish_previous",
        )
        self.remember(self.kept.id)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if self.kept and numbers:
            self.kept.log(dict(numbers), step=step)

    def end(self, reason: str) -> None:
        if self.kept:
            self.kept.summary["reason"] = reason

    def close(self) -> None:
        if self.kept:
            self.kept.finish()
            self.kept = None
