"""The common part of all trackers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from ffdist.errors import ConfigError, setting
from ffdist.events import EpochEnded, PulseReported, RunEvent, RunStarted, RunStopped
from ffdist.pipeline.scalars import of_test, scalars
from ffdist.regular import read_text
from ffdist.renamed import warn_renamed

NAMES = "trackers.json"
"""File in the run folder: each tracker's id of the run, by which a resumed run goes on there."""


class Tracker(ABC):
    """An observer that writes the numbers of epochs, pulses and the test to a service or file of its own.

    run: the run's folder. settings: those of the run, by their own names.
    """

    name: str

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        self.run = run
        self.settings = {name: plain(value) for name, value in settings.items()}
        self.step = 0

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunStarted(step=step):
                self.step = step
                self.begin(step)
            case PulseReported(step=step):
                self.step = step
                self.write(dict(numbers_within_epoch(event)), step)
            case EpochEnded(record):
                self.step = record.get("step") or self.step
                self.write(scalars(record) | {"epoch": record["epoch"]}, self.step)
            case RunStopped(reason, test):
                self.write(of_test(test), self.step)
                self.end(reason)
            case _:
                pass

    @property
    def told(self) -> Mapping[str, Any]:
        """The old name of `settings`."""
        warn_renamed("Tracker.told", "settings")
        return self.settings

    @abstractmethod
    def begin(self, step: int) -> None:
        """Called before the first batch, also of a resumed run: numbers of steps after `step` are written again."""

    @abstractmethod
    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers by name. step: batches learned from so far."""

    @abstractmethod
    def end(self, reason: str) -> None:
        """Called at the run's end, after which no numbers follow. reason: "finished", or "interrupted"."""

    @abstractmethod
    def close(self) -> None:
        """Free what is open; called in any case, also after an error, and perhaps several times."""

    def recall(self) -> str | None:
        """The id that the tracker gave this run, from the run's folder; None where it has not begun it yet."""
        try:
            return json.loads(read_text(self.run / NAMES)).get(self.name)
        except (OSError, ValueError, AttributeError):
            return None

    def remember(self, name: str) -> None:
        """Keep the tracker's id of this run in the run's folder, so that a resumed run goes on there."""
        try:
            names = dict(json.loads(read_text(self.run / NAMES)))
        except (OSError, ValueError, TypeError):
            names = {}
        if names.get(self.name) == name:
            return
        # whole or not at all: on a full disk a file that is written in its place would lose all of them
        partial = self.run / f".{NAMES}.partial"
        partial.write_text(json.dumps(names | {self.name: name}) + "\n")
        partial.replace(self.run / NAMES)


def numbers_within_epoch(event: PulseReported) -> Iterator[tuple[str, float]]:
    """The numbers of a report within an epoch, below "running/"; of several workers of a block, their mean."""
    if event.samples_per_second is not None:
        yield "running/samples_per_second", event.samples_per_second
    found: dict[str, list[float]] = {}
    for stage in event.stages:
        for block in stage["blocks"]:
            for kind in ("loss", "accuracy", "lr"):
                if block.get(kind) is not None:
                    found.setdefault(f"running/{kind}/{block['block']}", []).append(block[kind])
    yield from ((name, fmean(values)) for name, values in found.items())


def plain(value: Any) -> Any:
    """A setting's value as a number, text, bool or None, which every tracker can take."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def missing_package_error(name: str, package: str, error: ImportError) -> ConfigError:
    """The error for a tracker whose package is not installed."""
    return ConfigError(
        f"the tracker needs {package}, which is missing",
        where=setting("watch.track", name),
        got=str(error),
        remedy=f"pip install {package}; or leave it out of {setting('watch.track')}",
    )
