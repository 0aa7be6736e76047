"""Rounds: every side once, one after the other, between two probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ffdist.bench.probe import Probe
from ffdist.bench.sides import Side
from ffdist.bench.summary import Summary, ratios
from ffdist.bench.window import Lap

PATIENCE = 4
"""Times the rounds asked for that are tried, before the machine counts as too busy to measure on."""


@dataclass
class Rounds:
    """The laps of the rounds that count, side by side."""

    wanted: int
    laps: dict[str, list[Lap]]
    probes: list[float] = field(default_factory=list)
    """All that were measured."""
    discarded: int = 0
    least: float = 0.0
    """What a round's probes had to reach."""
    alone: float = 0.0
    """Of the probe: what one process did alone, at best."""
    trusted: bool = True
    """False: no round passed the probe, and the laps are of rounds that did not."""

    def rates(self, name: str) -> list[float]:
        return [lap.rate for lap in self.laps[name]]

    def rate(self, name: str) -> Summary:
        """Samples a second."""
        return Summary.of(self.rates(name))

    def ratio(self, ours: str, theirs: str) -> Summary:
        return ratios(self.rates(ours), self.rates(theirs))

    @property
    def kept(self) -> int:
        return min(map(len, self.laps.values())) if self.trusted else 0

    def notes(self) -> list[str]:
        """What a reader must know of the machine's behaviour."""
        probe = Summary.of(self.probes)
        notes = [
            f"{self.discarded} of {self.discarded + self.kept} rounds discarded by the probe "
            f"(median {probe.median:.2f}, {probe.least:.2f} to {probe.most:.2f}; {self.least:.2f} wanted; "
            f"1 is {self.alone:,.0f} products of 256 x 256 matrices a second)",
            "on every side, each of its processes is bound to cores of its own where there are enough",
        ]
        if not self.trusted:
            notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded rounds")
        elif self.kept < self.wanted:
            notes.append(f"only {self.kept} of {self.wanted} rounds wanted passed the probe")
        return notes


def take_turns(
    sides: Sequence[Side],
    probe: Probe,
    wanted: int,
    progress: Callable[[str], None] = lambda line: None,
    *,
    patience: int = PATIENCE,
) -> Rounds:
    """A B, B A, A B, ... until `wanted` rounds have passed the probe, or `patience` times as many were tried."""
    rounds = Rounds(wanted, {side.name: [] for side in sides}, least=probe.least)
    failed: list[dict[str, Lap]] = []
    before = probe.measure()
    rounds.probes.append(before)
    for number in range(patience * wanted):
        order = sides if number % 2 == 0 else list(reversed(sides))
        laps = {side.name: side.lap() for side in order}
        after = probe.measure()
        rounds.probes.append(after)
        passed = min(before, after) >= probe.least
        progress(f"round {number + 1}: probe {min(before, after):.2f}{'' if passed else ', discarded'}; " +
                 ", ".join(f"{name} {lap.rate:,.0f}" for name, lap in laps.items()))  # fmt: skip
        _keep(rounds, laps) if passed else failed.append(laps)
        before = after
        if len(rounds.laps[sides[0].name]) == wanted:
            break
    rounds.discarded, rounds.alone = len(failed), probe.alone
    if not any(rounds.laps.values()):
        rounds.trusted = False
        for laps in failed:
            _keep(rounds, laps)
    return rounds


def _keep(rounds: Rounds, laps: dict[str, Lap]) -> None:
    for name, lap in laps.items():
        rounds.laps[name].append(lap)
