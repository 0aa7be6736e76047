"""The end of a run: its result, or the one error that explains the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ffdist.errors import (
    FfdistError,
    PeerTimeoutError,
    StageAwayError,
    StageError,
    StageLostError,
    TransportError,
    setting,
)
from ffdist.events import Observer, RunEvent, RunStopped
from ffdist.pipeline.scalars import history


@dataclass(repr=False)
class Result:
    """The result of a finished run."""

    reason: str = ""
    """"finished", or "interrupted" when it was told to stop early (a snapshot was made)."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """One an epoch: train and validation metrics by block and predictor, stages' times and memory. "epoch" counts from
    1, as on the screen and in metrics.jsonl."""
    signal: int = 0
    """The number of the signal that told it to stop; 0 where none did."""
    test: dict[str, Any] | None = None
    """Metrics on the test split, by block and predictor; None without one, and where the run was told to stop."""

    def history(self) -> pa.Table:
        """A row an epoch: "epoch", "step", "time", and a column for each number, e.g. "validation/accuracy/mean" or
        "train/loss/<block>"; `.to_pandas()` makes a frame of it."""
        return history(self.records)

    def __repr__(self) -> str:
        """Short: the records of a long run are many pages."""
        accuracies = {} if self.test is None else {name: round(x, 4) for name, x in self.test["accuracy"].items()}
        untested = "no test split" if self.reason == "finished" else "not tested"
        test = f"test accuracy {accuracies}" if accuracies else untested
        return f"<Result: {self.reason or 'not ended'}, {len(self.records)} epochs, {test}>"

    def collecting(self, observer: Observer) -> Callable[[RunEvent], None]:
        """`observer`, which also fills in this result."""

        def observe(event: RunEvent) -> None:
            if isinstance(event, RunStopped):
                self.reason, self.records, self.test = event.reason, event.records, event.test
            observer(event)

        return observe


def root_cause(errors: Sequence[BaseException]) -> BaseException:
    """The one of the stages' errors that explains the others: a lost peer is what its neighbours saw of it, and who
    waited for a silent one in vain says more than who lost those that gave up."""

    def distance(error: BaseException) -> int:
        if isinstance(error, TransportError):
            return 4 if isinstance(error, PeerTimeoutError) else 5
        if isinstance(error, StageLostError):
            return 3 if isinstance(error, StageAwayError) else 2
        return 1 if isinstance(error, StageError) else 0

    assert errors
    return min(errors, key=distance)


def cause_of(errors: Sequence[BaseException], hung: Sequence[str]) -> BaseException:
    """`root_cause`; or where all that is known of it is that somebody did not answer, who that is.

    hung: the stages that did not end though others had failed, as users know them.
    """
    cause = root_cause(errors)
    if not hung or not isinstance(cause, (PeerTimeoutError, StageAwayError)):
        return cause
    return StageLostError(
        f"{' and '.join(hung)} did not answer",
        where=cause.details["where"],
        expected=cause.details["expected"],
        got=cause.details["what"],
        remedy=f"look for what it waits for, or raise {setting('run.timeout')} if it is only slow",
    )


def with_remedy(error: FfdistError, remedy: str) -> FfdistError:
    return error.again(remedy=remedy)
