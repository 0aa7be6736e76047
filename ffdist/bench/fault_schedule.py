"""Kills that a seed draws: when, and whom."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Victim = Literal["worker", "launcher", "node", "fork server"]
"""Who is killed: a worker's process, what has started the workers, a node of Ray's with all that is on it, or what
workers are forked from, with which they all end."""
NODES_SHARE = 0.3
"""The share of the kills of workers, where there are nodes."""
SERVERS_SHARE = 0.15
"""The same, where there is a fork server."""
Moment = Literal["start", "learning", "exchange", "snapshot", "commit", "last commit"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
LAST = 2
"""So many of the kills, or half of them, come at the last commit; the run may have ended before the second."""


@dataclass(frozen=True)
class Fault:
    """One kill that was drawn."""

    moment: Moment
    victim: Victim
    worker: int
    wait: float
    """Seconds after the moment; longer after a start than between batches."""


def schedule(kills: int, seed: int, *, nodes: bool = False, servers: bool = False) -> list[Fault]:
    """The faults of a run, in order; nodes, servers: whether there are such as can be killed."""
    draw = random.Random(seed)
    faults = list[Fault]()
    for number in range(kills):
        moment = draw.choice(MOMENTS[:-1]) if number < kills - min(LAST, kills // 2) else "last commit"
        longest = {"start": 4.0, "learning": 0.6, "exchange": 0.6}.get(moment, 0.0)
        wait = draw.uniform(0, longest)
        victim: Victim = "launcher" if draw.random() < 0.3 else "worker"
        worker = draw.randrange(2)
        if nodes and victim == "worker" and draw.random() < NODES_SHARE:
            victim = "node"
        if servers and victim == "worker" and draw.random() < SERVERS_SHARE:
            victim = "fork server"
        faults.append(Fault(moment, victim, worker, wait))
    return faults
