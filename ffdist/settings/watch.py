"""Watching: who hears of how a run goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from ffdist.errors import ConfigError, setting
from ffdist.known import TRACKERS
from ffdist.options import as_python, nearest
from ffdist.settings.base import SettingsGroup, option

MAX_SECONDS = 10**6
"""Seconds."""
SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
TIME = re.compile(rf"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?({'|'.join(SECONDS)})", re.IGNORECASE)


def batches_or_seconds(value: Any) -> int | str:
    """A number of batches as it is; a time (10s, 2min, a timedelta) in seconds, as "10s".

    Raises ConfigError for what is neither.
    """
    value = as_python(value)
    if isinstance(value, timedelta):  # as Python has it
        value = f"{value.total_seconds():f}s"
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if text.isascii() and text.isdigit():
        return int(text)
    found = TIME.fullmatch(text)
    seconds = round(float(found[1]) * SECONDS[found[2].lower()], 6) if found else 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(
            f"{setting('watch.log_every')} is neither batches nor a time",
            expected=f"a whole number of batches, as 50, or more than 0 and up to {MAX_SECONDS} seconds, as 10s",
            got=value,
        )
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


@dataclass(frozen=True)
class WatchSettings(SettingsGroup):
    """Watching a run."""

    group: ClassVar[str] = "watch"

    log_every: int | str = option(50, ge=0, free=True, rare=True)
    """Batches (50) or seconds (10s) between pulses, 0: none. Pulses are reports within an epoch of each stage's times,
    loss, accuracy and memory; a pulse by time follows the next whole batch."""
    track: tuple[str, ...] | None = option(None, free=True)
    """Trackers that get the metrics: tensorboard, wandb, mlflow, comet. none: no tracker. Default: tensorboard, if
    installed. Each keeps its run when this one is resumed."""
    callback: tuple[str, ...] = option((), free=True, rare=True)
    """Observers of your own, file.py:Name. A class or a function, as module:Name too; each is called with every event
    of the run (`ffdist.events`)."""
    metric: tuple[str, ...] = option((), free=True, rare=True)
    """Metrics of your own, file.py:Name or module:Name. Such as torchmetrics.classification:MulticlassF1Score: a class
    with update, compute and reset, or a function of scores [N, K] and labels [N], on validation and test samples."""
    trace: bool = option(False, free=True)
    """Write RUN/trace.json: what each worker did when. For Perfetto, chrome://tracing and the page of `ffdist report`:
    receiving, computing by block, exchanging, sending and waiting, of all workers on one clock, in a window of
    batches."""
    trace_from: int = option(3, ge=1, free=True, rare=True)
    """First batch in the window of the trace and the profile. Counted from where the run begins or goes on, from 1."""
    trace_steps: int = option(100, ge=1, free=True, rare=True)
    """Batches in the window of the trace."""
    profile: int = option(0, ge=0, free=True, rare=True)
    """Batches that torch.profiler records on each worker, 0 for none: RUN/profile/stage-0-worker-0.json, ... Stages in
    threads of one process have their turns."""

    def check(self) -> None:
        object.__setattr__(self, "log_every", batches_or_seconds(self.log_every))
        super().check()
        for name in self.track or ():
            if name not in TRACKERS:
                raise ConfigError(
                    f"there is no tracker '{name}'",
                    where=setting("watch.track"),
                    expected=", ".join(TRACKERS),
                    got=name,
                    remedy=nearest(name, TRACKERS),
                )
