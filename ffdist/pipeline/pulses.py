"""The moments at which a source sends a `Pulse`: every so many batches, or seconds."""

from __future__ import annotations

import time
from typing import Protocol

from ffdist.pipeline.stage_group import StageGroup


class Pulses(Protocol):
    """Says after which batches a source sends a pulse."""

    def is_due(self, step: int) -> bool:
        """True if a pulse follows batch `step`; asked once of each batch."""
        ...


class EveryBatches:
    """A pulse every so many batches; 0: never."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def is_due(self, step: int) -> bool:
        return bool(self.batches) and step % self.batches == 0


class PulseTimer:
    """Says when `seconds` have gone by since it was set."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.set_at = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.set_at >= self.seconds

    def restart(self) -> None:
        self.set_at = time.monotonic()


class EverySeconds:
    """A pulse every so many seconds, by the clock of a source that makes whole batches."""

    def __init__(self, seconds: float) -> None:
        self.clock = PulseTimer(seconds)

    def is_due(self, step: int) -> bool:
        if not self.clock.is_due():
            return False
        self.clock.restart()
        return True


class EverySecondsTogether:
    """A pulse every so many seconds where sources share each batch: they go by the clock of the one that leads, and
    hear of it with a batch's exchange, so that their pulses follow the same batch."""

    def __init__(self, seconds: float, group: StageGroup, *, leads: bool) -> None:
        self.group = group
        group.clock = PulseTimer(seconds) if leads else None

    def is_due(self, step: int) -> bool:
        return self.group.take_pulse(step)


def pulses_of(log_every: int | str, group: StageGroup | None, *, leads: bool) -> Pulses:
    """log_every: batches, or seconds as "10s". group: those that make a part of each batch, too."""
    if isinstance(log_every, int):
        return EveryBatches(log_every)
    seconds = float(log_every.removesuffix("s"))
    return EverySecondsTogether(seconds, group, leads=leads) if group else EverySeconds(seconds)
