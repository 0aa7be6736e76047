"""Each block's learning rate over the run, and when it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class SchedulerSettings(SettingsGroup):
    """The learning rate over the run."""

    group: ClassVar[str] = "scheduler"

    schedule: Literal[
        "constant", "cosine", "linear", "linear-late", "one-cycle", "triangular", "milestones", "plateau"
    ] = "cosine"
    """Its course. cosine or linear to `end`, linear to 0 over the second half
    (linear-late), up and down again by cosines (one-cycle) or straight (triangular), multiplied by `factor` at each of
    `milestones`, or per block where its validation loss stays (plateau). one-cycle and triangular rise over 0.3 of the
    run unless a warm-up is given."""
    warmup: float = option(0.0, ge=0, lt=1)
    """Warm-up, as a share of the run. The rate rises from `start`, a share of it."""
    warmup_epochs: float | None = option(None, gt=0, rare=True)
    """Warm-up in epochs. In place of warmup."""
    warmup_steps: int | None = option(None, ge=1, rare=True)
    """Warm-up in batches. In place of warmup."""
    milestones: tuple[float, ...] = option((), rare=True)
    """milestones: epochs after which the rate falls, e.g. 30 60. Each time by `factor`."""
    start: float = option(0.0, ge=0, le=1, rare=True)
    """Learning rate at the start of the warm-up, as a share of lr."""
    end: float = option(0.0, ge=0, le=1, rare=True)
    """Learning rate at the end of the run, as a share of lr. For cosine, linear, one-cycle and triangular."""
    patience: int = option(10, ge=0, rare=True)
    """plateau: epochs without a lower validation loss before the rate falls. Each block goes by its own loss."""
    factor: float = option(0.1, gt=0, lt=1, rare=True)
    """plateau and milestones: factor by which the rate falls. Under plateau, the rate of the block whose loss stays."""
    windows: tuple[str, ...] = option((), rare=True)
    """Epochs in which each block learns, e.g. 0:11 11:16. From and to, in epochs done before: 0:11 are epochs 1 to 11,
    11:16 are 12 to 16; a block at rest only passes on. One for every block."""

    def check(self) -> None:
        object.__setattr__(self, "windows", as_texts(self.windows))
        super().check()
        self.check_warmup()
        self.check_milestones()
        if any(not 0 <= start < end for start, end in self.pairs):
            raise ConfigError(
                "these are no windows of epochs",
                where=setting("scheduler.windows"),
                expected="0 <= from < to, in epochs done before: 0:11 are epochs 1 to 11",
                got=" ".join(self.windows),
            )

    @property
    def warmups(self) -> dict[str, float]:
        """The warm-ups that are given, by name."""
        lengths = {"warmup": self.warmup, "warmup_epochs": self.warmup_epochs, "warmup_steps": self.warmup_steps}
        return {name: value for name, value in lengths.items() if value}

    def check_warmup(self) -> None:
        """Raises ConfigError for one where there is none, and for several."""
        names = [setting(f"scheduler.{name}") for name in self.warmups]
        if self.schedule == "plateau" and names:
            raise ConfigError(
                "a learning rate that follows a plateau has no warm-up",
                where=names[0],
                expected="none",
                got=next(iter(self.warmups.values())),
                remedy=f"take another {setting('scheduler.schedule')}, or leave {names[0]} out",
            )
        if len(names) > 1:
            raise ConfigError(
                f"{' and '.join(names)} exclude one another", expected="one of them, to say how long the rate rises"
            )

    def check_milestones(self) -> None:
        """Raises ConfigError for those that do not rise, and for none where there must be some."""
        steps = self.milestones
        if any(not step > 0 for step in steps) or list(steps) != sorted(set(steps)):
            raise ConfigError(
                "these are no milestones",
                where=setting("scheduler.milestones"),
                expected="growing numbers of epochs, each above 0",
                got=list(steps),
            )
        if self.schedule == "milestones" and not steps:
            raise ConfigError(
                "there are no milestones",
                where=setting("scheduler.schedule", "milestones"),
                expected="the epochs after which the rate falls",
                remedy=setting("scheduler.milestones", "30 60"),
            )

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Each block's first epoch of learning (from 0), and the one it no longer learns in; empty: all learn in all.

        Raises ConfigError for what is no pair.
        """
        try:
            return tuple((int(start), int(end)) for start, end in (text.split(":") for text in self.windows))
        except ValueError as error:
            raise ConfigError(
                "a window is from:to, in epochs",
                where=setting("scheduler.windows"),
                expected="0:11 0:16 ...",
                got=" ".join(self.windows),
            ) from error

    def learns(self, index: int, epoch: int) -> bool:
        """True if block `index` learns in this epoch (from 0); what follows all the windows' blocks does."""
        if index >= len(self.windows):
            return True
        start, end = self.pairs[index]
        return start <= epoch < end

    def check_windows(self, blocks: int) -> None:
        """Raises ConfigError unless there is a window for each of the network's blocks, or none at all."""
        if self.windows and len(self.windows) != blocks:
            raise ConfigError(
                "each block has a window of epochs",
                where=setting("scheduler.windows"),
                expected=f"{blocks} windows",
                got=len(self.windows),
            )


def as_texts(windows: object) -> object:
    """Pairs of whole numbers as texts; all else as it is."""
    if not isinstance(windows, Sequence) or isinstance(windows, str):
        return windows
    return tuple(
        ":".join(map(str, window)) if isinstance(window, (tuple, list)) and len(window) == 2 else window
        for window in windows
    )
