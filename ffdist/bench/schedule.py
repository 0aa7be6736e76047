"""Kills that a seed draws: when, and whom."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Moment = Literal["start", "learning", "exchange", "snapshot", "commit", "last commit"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
LAST = 2
"""So many of the kills, or half of them, come at the last commit; the run may have ended before the second."""


@dataclass(frozen=True)
class Fault:
    """One kill that was drawn."""

    moment: Moment
    launcher: bool
    """Whether what has started the workers is killed, and not a worker."""
    worker: int
    wait: float
    """Seconds behind the moment; behind a start more than between batches."""


def schedule(kills: int, seed: int) -> list[Fault]:
    """The faults of a run, in order."""
    draw = random.Random(seed)
    faults = list[Fault]()
    for number in range(kills):
        moment = draw.choice(MOMENTS[:-1]) if number < kills - min(LAST, kills // 2) else "last commit"
        most = {"start": 4.0, "learning": 0.6, "exchange": 0.6}.get(moment, 0.0)
        wait = draw.uniform(0, most)
        faults.append(Fault(moment, draw.random() < 0.3, draw.randrange(2), wait))
    return faults
