"""Rounds: every side once, one after the other, between two probes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import torch

from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.harness.window import Window, WindowRate, timed
from ffdist.bench.harness.worker_pool import WorkerPool
from ffdist.device import synchronize

MAX_TRIES_PER_ROUND = 4
"""Times the rounds asked for that are tried, before the machine counts as too busy to measure on."""
FEWEST = 3
"""Rounds that are tried, however long they take."""


class Side(Protocol):
    """One of the sides that take turns."""

    name: str

    def measure(self) -> WindowRate:
        """Work for one window."""
        ...


class WindowedSide(Side, Protocol):
    """A side whose window can be set."""

    window: Window


AnySide = TypeVar("AnySide", bound=WindowedSide)


def calibrated(side: AnySide, seconds: float) -> AnySide:
    """Set the side's window to about `seconds`, by the rate in two short windows, of which the first only warms up."""
    side.window = side.window._replace(batches=3)
    side.measure()
    window = side.measure()
    side.window = side.window._replace(batches=max(3, round(seconds / (window.seconds / 3))))
    return side


@dataclass
class PoolSide:
    """Processes that answer each window with a `WindowRate`."""

    name: str
    pool: WorkerPool
    window: Window

    def measure(self) -> WindowRate:
        return self.pool.ask(self.window)


@dataclass
class StepSide:
    """A step of this process, again and again. samples: of each step."""

    name: str
    step: Callable[[], object]
    samples: int
    device: torch.device
    window: Window = field(default_factory=lambda: Window(1, 3))

    def measure(self) -> WindowRate:
        return timed(self.window, self._steps, self.samples)

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self.step()
        synchronize(self.device)


class Machine(Protocol):
    """A measure of how free the machine is."""

    @property
    def required(self) -> float:
        """The rate that a round needs before and after it."""
        ...

    @property
    def alone(self) -> float:
        """The best rate of one process alone."""
        ...

    def measure(self) -> float:
        """Cores' worth of work that all processes did together."""
        ...


class Unwatched:
    """A machine that is not probed, as nobody else uses it: a GPU of one's own."""

    required = alone = 0.0

    def measure(self) -> float:
        return 0.0


class Round(NamedTuple):
    """The results of all sides in one round."""

    measured: dict[str, WindowRate]
    probe: float
    """The lower of the probe's rates before and after the round, in cores."""
    passed: bool


@dataclass
class Rounds:
    """All rounds that were tried; those that passed the probe count."""

    wanted: int
    names: list[str]
    required: float = 0.0
    """What a round's probes had to reach."""
    tried: list[Round] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    """All that were measured."""
    alone: float = 0.0
    """The probe's rate: what one process did alone, at best."""

    @property
    def passed(self) -> list[Round]:
        """The rounds that passed the probe."""
        return [each for each in self.tried if each.passed]

    @property
    def trusted(self) -> bool:
        """False: no round passed the probe, and those that did not are what there is."""
        return bool(self.passed)

    @property
    def discarded(self) -> int:
        """The number of rounds that did not."""
        return len(self.tried) - len(self.passed)

    @property
    def measured(self) -> dict[str, list[WindowRate]]:
        """The rates of the rounds that count, side by side."""
        return {name: [each.measured[name] for each in self.passed or self.tried] for name in self.names}

    def rates(self, name: str) -> list[float]:
        """A side's samples/s in each round that counts."""
        return [window.rate for window in self.measured[name]]

    def rate(self, name: str) -> Summary:
        """Samples a second."""
        return Summary.of(self.rates(name))

    def ratio(self, ours: str, theirs: str) -> Summary:
        """One side's rate over another's, round by round."""
        return ratios(self.rates(ours), self.rates(theirs))

    def line(self, side: str, ours: str) -> dict[str, str | Summary]:
        """A side's line of a table: its rate, and ours by it."""
        return {"side": side, "throughput": self.rate(side), "ratio": self.ratio(ours, side)}

    def notes(self) -> list[str]:
        """Notes on the machine's behaviour that a reader needs."""
        probe = Summary.of(self.probes)
        notes = [
            f"{self.discarded} of {len(self.tried)} rounds discarded by the probe "
            f"(median {probe.median:.2f}, {probe.min:.2f} to {probe.max:.2f}; {self.required:.2f} wanted; "
            f"1 is {self.alone:,.0f} products of 256 x 256 matrices a second)",
            "on every side, each of its processes is bound to cores of its own where there are enough",
        ]
        if not self.trusted:
            notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded rounds")
        elif len(self.passed) < self.wanted:
            notes.append(f"only {len(self.passed)} of {self.wanted} rounds wanted passed the probe")
        return notes

    def table(self, **keys: str | int) -> ResultTable:
        """Every window, of discarded rounds, too, for the record alone. keys: what these rounds are of."""
        made = ResultTable("rounds", "", {}, {"throughput": "samples/s", "probe": "cores"})
        for number, each in enumerate(self.tried):
            place = {**keys, "round": number, "passed": each.passed}
            made.add(**place, probe=each.probe)
            for name, window in each.measured.items():
                made.add(**place, side=name, throughput=window.rate)
        return made


def take_turns(
    sides: Sequence[Side],
    probe: Machine,
    wanted: int,
    progress: Callable[[str], None] = lambda line: None,
    *,
    max_tries: int = MAX_TRIES_PER_ROUND,
    seconds: float = float("inf"),
) -> Rounds:
    """Rounds in alternating order, A B, B A, A B, ..., which cancels a drift of the machine's speed.

    They end when `wanted` rounds have passed the probe, when `max_tries` times as many were tried, or when so many
    seconds are over; `FEWEST` rounds are tried in any case.
    """
    ends = time.monotonic() + seconds
    rounds = Rounds(wanted, [side.name for side in sides], probe.required, probes=[probe.measure()])
    for number in range(max_tries * wanted):
        order = sides if number % 2 == 0 else list(reversed(sides))
        measured = {side.name: side.measure() for side in order}
        rounds.probes.append(probe.measure())
        lower = min(rounds.probes[-2:])
        rounds.tried.append(Round(measured, lower, lower >= probe.required))
        progress(
            f"round {number + 1}: probe {lower:.2f}{'' if rounds.tried[-1].passed else ', discarded'}; "
            + ", ".join(f"{name} {window.rate:,.0f}" for name, window in measured.items())
        )
        if len(rounds.passed) == wanted or (number + 1 >= FEWEST and time.monotonic() > ends):
            break
    rounds.alone = probe.alone
    return rounds
