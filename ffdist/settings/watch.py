"""Who is told how a run goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ffdist.errors import ConfigError, setting
from ffdist.known import TRACKERS
from ffdist.options import nearest
from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class WatchSettings(Group):
    """Watching a run."""

    group: ClassVar[str] = "watch"

    log_every: int = option(50, least=0, free=True, rare=True)
    """Batches between pulses, 0 for none: reports within an epoch of each stage's times, loss, accuracy and memory."""
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
    trace_from: int = option(3, least=1, free=True, rare=True)
    """First batch in the window of the trace and the profile. Counted from where the run begins or goes on, from 1."""
    trace_steps: int = option(100, least=1, free=True, rare=True)
    """Batches in the window of the trace."""
    profile: int = option(0, least=0, free=True, rare=True)
    """Batches that torch.profiler records on each worker, 0 for none: RUN/profile/stage-0-worker-0.json, ... Stages in
    threads of one process have their turns."""

    def check(self) -> None:
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
