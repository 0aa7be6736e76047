"""A view of a run from its folder, as far as it can be read: the value of which its page is made."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ffdist.errors import FfdistError, SnapshotError
from ffdist.page.log import GrowingLog
from ffdist.page.spans import PageSpan, read_trace
from ffdist.plan import Plan
from ffdist.report.log import read_pulses, read_run_log
from ffdist.runtime.data_facts import FACTS, DataFacts, read_facts
from ffdist.runtime.folder import LOCK
from ffdist.runtime.record import ENVIRONMENT, read_starts
from ffdist.runtime.run import PLAN, SETTINGS, read_settings, saved_plan
from ffdist.runtime.tracing import TRACE
from ffdist.settings import Settings
from ffdist.snapshot import committed
from ffdist.snapshot.chosen import steps
from ffdist.snapshot.mirror import as_user_named

if TYPE_CHECKING:
    from ffdist.page.measured import SnapshotMeasurement

LOCKS = Path("/proc/locks")
STATIC_FILES = (SETTINGS, FACTS, PLAN, ENVIRONMENT)
"""Files that are written once, and when a run goes on."""
T = TypeVar("T")


@dataclass(frozen=True)
class RunView:
    """All that a page tells of one run."""

    name: str
    """Its name on the page, different from the other runs' names."""
    folder: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)
    facts: DataFacts | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    pulses: list[dict[str, Any]] = field(default_factory=list)
    """The pulses within epochs (`PulseReported`), in their JSON form."""
    at_work: bool = False
    written: float | None = None
    """When its run log was written to last, in seconds of the clock."""
    snapshots: list[int] = field(default_factory=list)
    """Steps (batches learned from) of the snapshots that are kept."""
    troubles: list[str] = field(default_factory=list)
    """What could not be read, in words."""
    trace: Sequence[PageSpan] = ()
    """The spans of the run's trace; none where it has no trace."""
    measured: SnapshotMeasurement | None = None
    unmeasured: str | None = None
    """Why nothing was measured on the run's data; None where nothing was to be."""

    @property
    def state(self) -> str:
        """The run's state in a word or two."""
        if self.at_work:
            return "at work"
        return str(self.end["reason"]) if self.end else "not at its end"

    @property
    def test(self) -> dict[str, Any] | None:
        """Metrics of the test split, once the run has ended; None without them."""
        return self.end.get("test") if self.end and not self.at_work else None


def view_run(run: Path, name: str | None = None) -> RunView:
    """Read the view of a run from its folder. Raises SnapshotError where there is no run, or where what it says of
    itself is not as it was written; DataError for such a run log."""
    settings = read_settings(run)
    records, end = read_run_log(run)
    path = run / "metrics.jsonl"
    return RunView(
        name or run.resolve().name or str(run),
        str(as_user_named(run)),
        dict(settings.items()),
        dict(Settings().items()),
        saved_plan(run),
        read_starts(run),
        read_facts(run) if (run / FACTS).exists() else None,
        records,
        end,
        read_pulses(run),
        is_at_work(run),
        path.stat().st_mtime if path.exists() else None,
        steps(committed(run)),
    )


class WatchedRun:
    """One run's folder, looked at again and again, by any thread; it may vanish, be half written, and come back."""

    def __init__(self, run: Path, name: str) -> None:
        self.run = run
        self.name = name
        self.log = GrowingLog(run)
        self.lock = threading.Lock()  # two requests at once would both take the log's new lines
        self.shown = RunView(name, str(run))
        """The view of the files that are written once a start, read when their stamps were `stamps`."""
        self.stamps: list[tuple[int, int, int] | None] = []
        self.trace: Sequence[PageSpan] = ()
        self.traced: tuple[int, int, int] | None = None

    def view(self) -> RunView:
        """The view of what can be read now, and in words what cannot; it raises nothing."""
        with self.lock:
            return self._view()

    def _view(self) -> RunView:
        if not self.run.is_dir():
            return RunView(self.name, str(self.run), troubles=["The run's folder is not there any more."])
        if strange := [name for name in STATIC_FILES if is_no_file(self.run / name)]:
            return RunView(self.name, str(self.run), troubles=[f"{name} is no file" for name in strange])
        if (now := [stamp(self.run / name) for name in STATIC_FILES]) != self.stamps:
            self.shown = self._read()
            self.stamps = now
        troubles = list(self.shown.troubles)
        kept = attempted(lambda: steps(committed(self.run)), [], troubles)
        attempted(self.log.read, None, troubles)
        if self.log.strange:
            troubles.append(
                f"{self.log.strange} lines of metrics.jsonl are not as a run writes them, and are left out."
            )
        if (traced := stamp(self.run / TRACE)) != self.traced:
            self.trace = read_trace(self.run)
            self.traced = traced
        return replace(
            self.shown,
            trace=self.trace,
            pulses=list(self.log.pulses),
            records=list(self.log.epochs),
            end=self.log.end,
            at_work=is_at_work(self.run),
            written=self.log.written,
            snapshots=kept,
            troubles=troubles,
        )

    def _read(self) -> RunView:
        """Read the files that are written at a start of the run."""
        run, troubles = self.run, list[str]()
        settings = attempted(lambda: read_settings(run), None, troubles) if (run / SETTINGS).exists() else None
        return RunView(
            self.name,
            str(as_user_named(run)),
            dict(settings.items()) if settings else {},
            dict(Settings().items()),
            attempted(lambda: saved_plan(run), None, troubles),
            attempted(lambda: read_starts(run), [], troubles),
            attempted(lambda: read_facts(run), None, troubles) if (run / FACTS).exists() else None,
            troubles=troubles,
        )


def attempted(what: Callable[[], T], otherwise: T, troubles: list[str]) -> T:
    """The value read; where it cannot be read, `otherwise`, and the reason among the troubles."""
    try:
        return what()
    except (FfdistError, OSError, ValueError) as error:
        troubles.append(str(error) or repr(error))
        return otherwise


def stamp(path: Path) -> tuple[int, int, int] | None:
    """(inode, time of the last write in ns, size) of a file, to see that it has changed; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def is_no_file(path: Path) -> bool:
    """True if the path exists and is no file: to open a pipe would wait for its writer."""
    return path.exists() and not path.is_file()


def is_at_work(run: Path) -> bool:
    """True if a process of this host holds the run's folder or one of its stages' logs. It is looked up, since a lock
    taken here, for however short, could refuse a run that begins; where the system has no list of locks, a log that was
    written within the last minute says so."""
    files = [run / LOCK, *run.glob("stage-*.log")]
    try:
        lines = [line.replace("-> ", "").split() for line in LOCKS.read_text().splitlines()]
        held = {words[5] for words in lines if len(words) > 5}
    except OSError:
        return any(is_recent(path) for path in files[1:])
    return any(name in held for name in named_in_locks(files))


def named_in_locks(files: Iterable[Path]) -> Iterable[str]:
    """The names of files in the kernel's list of locks, by device and inode."""
    for path in files:
        try:
            found = path.stat()
        except OSError:
            continue
        yield f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


def is_recent(path: Path) -> bool:
    """True if a file was written within the last minute; not where the clock was set back since by more."""
    try:
        return abs(time.time() - path.stat().st_mtime) < 60
    except OSError:
        return False


def is_run(folder: Path) -> bool:
    """True if the folder is a run's: it has the run's settings."""
    return (folder / SETTINGS).is_file()


def names_of(runs: list[Path]) -> list[str]:
    """The folders' own names, or as much of their paths as tells them apart."""
    texts = [str(as_user_named(run)).rstrip("/") for run in runs]
    last = [text.rpartition("/")[2] or text for text in texts]
    return last if len(set(last)) == len(last) else texts


def check_runs(runs: list[Path]) -> None:
    """Raises SnapshotError for a folder without a run."""
    for run in runs:
        if not is_run(run):
            raise SnapshotError(
                "there is no run here",
                where=as_user_named(run),
                expected=f"a folder with {SETTINGS}",
                remedy="name the run folder that `ffdist train` printed",
            )
