"""Events of a run, as values of fixed types, and those who observe them.

Events come in order, from the end of the pipeline: `RunStarted`, then `ProgressMade`, `PulseReported`, `EpochEnded`
and `SnapshotCommitted` as they happen, at last `RunStopped`; on Ray, between them, `StagesPlaced`, `EdgesOpened` and
`RunRestarted`. Each has a JSON form, an object with its `name` under "event", the schema's version under "schema", and
its fields; `from_json` is the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Protocol

from ffdist.errors import DataError, Interrupted, described
from ffdist.notes import failure, note

SCHEMA = 1
"""The version of the JSON form: it grows when a field gets another meaning or goes; new fields leave it as it is."""


@dataclass(frozen=True)
class RunEvent:
    """Something that happened to a run."""

    name: ClassVar[str]
    """The name of its kind, in JSON."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `from_json` is the inverse."""
        return {"event": self.name, "schema": SCHEMA} | {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class RunStarted(RunEvent):
    """All workers are ready for the first batch."""

    name: ClassVar[str] = "start"

    steps: int
    """Batches an epoch."""
    epochs: int
    step: int
    """Batches learned before: 0, except in a run that was resumed from a snapshot."""
    epoch: int
    """The epoch that comes now; counts from 1."""


@dataclass(frozen=True)
class ProgressMade(RunEvent):
    """A training batch has passed all blocks; sent a few times a second, not for each batch."""

    name: ClassVar[str] = "progress"

    step: int
    """Batches learned from since the run began."""


@dataclass(frozen=True)
class PulseReported(RunEvent):
    """Progress within an epoch, every `--log-every` batches or seconds."""

    name: ClassVar[str] = "pulse"

    step: int
    epoch: int
    """Counts from 1."""
    time: str
    samples_per_second: float | None
    """Since the last report of this epoch."""
    stages: list[dict[str, Any]]
    """One a worker of each stage: as "stages" in an epoch's record, but since the last report, and "blocks" with what
    each has learned in this epoch so far (by this worker's lanes): "block", "loss", "accuracy", "lr"."""


@dataclass(frozen=True)
class EpochEnded(RunEvent):
    """An epoch is over."""

    name: ClassVar[str] = "epoch"

    record: dict[str, Any]
    """What the run log keeps of it: "epoch", "step", "time", "train", "validation", "stages"."""


@dataclass(frozen=True)
class SnapshotCommitted(RunEvent):
    """A snapshot is whole, and is where the run goes on from if it ends now."""

    name: ClassVar[str] = "snapshot"

    step: int
    epoch: int
    """Epochs that were complete at the snapshot."""


@dataclass(frozen=True)
class StagesPlaced(RunEvent):
    """Ray has found a place for each worker."""

    name: ClassVar[str] = "placed"

    attempt: int
    """Counts from 0."""
    stages: list[dict[str, Any]]
    """The facts of each worker in order: "address", "node", "pid" and more."""


@dataclass(frozen=True)
class EdgesOpened(RunEvent):
    """The last worker's edges are open."""

    name: ClassVar[str] = "edges"

    transports: list[str]
    """What the edges of the run travel by."""


@dataclass(frozen=True)
class RunRestarted(RunEvent):
    """A worker was lost; the run goes on from its last snapshot."""

    name: ClassVar[str] = "restart"

    restart: int
    """Counts from 1."""
    of: int
    """The most restarts in a row that there may be."""
    reason: str


@dataclass(frozen=True)
class RunStopped(RunEvent):
    """The run has ended; nothing follows."""

    name: ClassVar[str] = "stop"

    reason: str
    """"finished", or "interrupted" where a stop was requested."""
    test: dict[str, Any] | None
    """Metrics on the test split, by block and predictor; None without one."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The records of all epochs."""


EVENTS: dict[str, type[RunEvent]] = {
    kind.name: kind
    for kind in (
        RunStarted,
        ProgressMade,
        PulseReported,
        EpochEnded,
        SnapshotCommitted,
        StagesPlaced,
        EdgesOpened,
        RunRestarted,
        RunStopped,
    )
}


def from_json(values: Mapping[str, Any]) -> RunEvent:
    """The event of which this is the JSON form; fields that this version does not know are left out.

    Raises DataError for what is no event, or one of a schema that this version cannot read.
    """
    try:
        kind, schema = EVENTS[values["event"]], values["schema"]
        if not schema <= SCHEMA:
            raise DataError("an event of a newer version", where="event", expected=f"schema {SCHEMA}", got=schema)
        known = {f.name for f in fields(kind)}
        return kind(**{name: value for name, value in values.items() if name in known})
    except (KeyError, TypeError) as error:
        raise DataError(
            "this is not an event of a run", where="event", expected=", ".join(EVENTS), got=described(error)
        ) from error


def now() -> str:
    """Local time with its zone, as ISO 8601 has it."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


class Observer(Protocol):
    """Anything that is called with each event. If it has a `close`, that is called once, when nothing follows."""

    def __call__(self, event: RunEvent, /) -> object: ...


class StopRun(Exception):  # noqa: N818 - no error: an observer's wish
    """Raised by an observer: the run ends after the batch at work, with a snapshot, as a signal would end it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class Observers:
    """Observers, called in order. One that fails is reported, and gets no further events; the run goes on.

    Raises StopRun where one of them does, when all have been called.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.observers = list(observers)

    def __call__(self, event: RunEvent) -> None:
        wishes = list[StopRun]()
        for observer in list(self.observers):
            try:
                observer(event)
            except StopRun as wish:
                wishes.append(wish)
            except (Interrupted, KeyboardInterrupt, SystemExit):
                raise
            except Exception as error:
                self.observers.remove(observer)
                failure(f"an observer has failed, and gets no further events: {name_of(observer)}: {described(error)}")
                close(observer)
        if wishes:
            raise wishes[0]

    def close(self) -> None:
        """Close each, the last one first."""
        while self.observers:
            close(self.observers.pop())


def close(observer: Observer) -> None:
    """Close it where it can be closed; what goes wrong in it is said."""
    try:
        getattr(observer, "close", lambda: None)()
    except Exception as error:
        failure(f"an observer could not be closed: {name_of(observer)}: {described(error)}")


def name_of(observer: Observer) -> str:
    return getattr(observer, "__qualname__", None) or type(observer).__qualname__


def stopping(observer: Observer, stop: Callable[[], object]) -> Callable[[RunEvent], None]:
    """`observer`; `stop` is called where it wants the run to end, which is said once."""
    said = False

    def tell(event: RunEvent) -> None:
        nonlocal said
        try:
            observer(event)
        except StopRun as wish:
            if not said:
                note(f"a callback ends the run{f': {wish}' if str(wish) else ''}")
            said = True
            stop()

    return tell
