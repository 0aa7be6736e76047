"""The runs of a folder, as they come and go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ffdist.errors import ConfigError
from ffdist.page.charts import total_time
from ffdist.page.run import RunView, WatchedRun, is_run
from ffdist.page.tables import best_epoch
from ffdist.page.text import NONE, count, moment, percent

DEPTH, MAX_RUNS = 3, 200
"""How far below the folder a run may be, and how many are shown, the newest."""


class WatchedFolder:
    """A run's folder, or one of runs.

    What lies elsewhere is not read, also where a link leads there. Raises ConfigError for a folder that is not there.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(
                "there is no such folder",
                where=folder,
                expected="a run's folder, or a folder of runs",
                remedy="name the run folder that `ffdist train` printed",
            )
        self.folder = folder.resolve()
        self.shown = str(folder)
        self.one = WatchedRun(self.folder, self.folder.name)
        self.was_one = False
        self.known: dict[str, WatchedRun] = {}
        self.lock = threading.Lock()  # requests are threads: each run has one `WatchedRun`, whose log is read once

    @property
    def single_run(self) -> WatchedRun | None:
        """The run whose folder it is, or was before it vanished; it may become one's while it is watched."""
        self.was_one = self.was_one or is_run(self.folder)
        return self.one if self.was_one else None

    def run(self, name: str) -> WatchedRun | None:
        """The run of that name, if it is there or was before; None for others, and for links out of the folder."""
        known = self.known.get(name)
        if known and self.is_inside(known.run):
            return known
        return self._known(name) if name in self.run_names() else None

    def _known(self, name: str) -> WatchedRun:
        with self.lock:
            return self.known.setdefault(name, WatchedRun(self.folder / name, name))

    def run_names(self) -> list[str]:
        """The names of the runs that are there: their places below the folder."""
        names, level = list[str](), [self.folder]
        for _ in range(DEPTH):
            below = [path for folder in level for path in folders_in(folder) if self.is_inside(path)]
            names += [str(path.relative_to(self.folder)) for path in below if is_run(path)]
            level = [path for path in below if not is_run(path)]
        return names

    def is_inside(self, path: Path) -> bool:
        """True if a path, links followed, lies in the watched folder."""
        try:
            return path.resolve().is_relative_to(self.folder)
        except (OSError, RuntimeError):  # a link that leads around
            return False

    def lines(self) -> tuple[list[tuple[str, list[str]]], int]:
        """Name and cells of each run, the newest first, and how many older ones are left out."""
        names = sorted(self.run_names(), key=lambda name: -newest_in(self.folder / name))
        return [(name, cells(self._known(name).view())) for name in names[:MAX_RUNS]], max(0, len(names) - MAX_RUNS)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


def newest_in(run: Path) -> float:
    """The time of the last write to a run's files, in seconds since 1970; 0 for a run that has gone."""
    times = [0.0]
    for name in ("config.toml", "metrics.jsonl"):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def cells(view: RunView) -> list[str]:
    """A run's cells in the table of all runs, in the order of `INDEX`."""
    best, test = best_epoch(view.records), view.test
    last = view.records[-1] if view.records else None
    return [
        view.state,
        f"{len(view.records)} of {view.settings.get('epochs', NONE)}",
        percent(best[0]) if best else NONE,
        percent(test["accuracy"].get("mean")) if test and isinstance(test.get("accuracy"), dict) else NONE,
        count(last["train"].get("samples_per_second")) if last else NONE,
        total_time(view) if last else NONE,
        moment(view.written),
    ]
