"""Each block's learning rate over the run, and when it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class SchedulerSettings(Group):
    """The learning rate over the run."""

    group: ClassVar[str] = "scheduler"

    schedule: Literal["constant", "cosine", "linear", "linear-late", "plateau"] = "cosine"
    """Its course. cosine or linear to `end`, linear to 0 over the second half (linear-late), or
    lowered per block where its validation loss stays (plateau)."""
    warmup: float = option(0.0, least=0, below=1)
    """Share of the run over which it rises. It begins at `start`, a share of the rate."""
    start: float = option(0.0, least=0, most=1)
    """Where warm-up begins, as a share of lr."""
    end: float = option(0.0, least=0, most=1)
    """Where cosine and linear end, as a share of lr."""
    patience: int = option(10, least=0)
    """plateau: epochs without a lower loss. Then the rate falls. It is the block's own validation loss."""
    factor: float = option(0.1, above=0, below=1)
    """plateau: what a rate is multiplied by. It is the block's whose loss stays."""
    windows: tuple[str, ...] = ()
    """Epochs each block learns in, e.g. 0:11 11:16. From and to, in epochs done before: 0:11 are epochs 1 to 11, 11:16
    are 12 to 16; a block at rest only passes on. One for every block."""

    def check(self) -> None:
        object.__setattr__(self, "windows", as_texts(self.windows))
        super().check()
        if self.schedule == "plateau" and self.warmup:
            raise ConfigError(
                "a learning rate that follows a plateau has no warm-up",
                where=setting("scheduler.warmup"),
                expected=0,
                got=self.warmup,
                remedy=f"take another {setting('scheduler.schedule')}, or leave {setting('scheduler.warmup')} out",
            )
        if any(not 0 <= start < end for start, end in self.pairs):
            raise ConfigError(
                "these are no windows of epochs",
                where=setting("scheduler.windows"),
                expected="0 <= from < to, in epochs done before: 0:11 are epochs 1 to 11",
                got=" ".join(self.windows),
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
        """Whether block `index` learns in this epoch (from 0); what stands behind all the windows' blocks does."""
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
