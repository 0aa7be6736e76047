"""Partial plans, as the search makes them: blocks up to some border dealt out to workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ffdist.plan import Share

CLOSE = 1e-9
"""Two prices nearer than this are one."""


class PartialPlan(NamedTuple):
    """Blocks up to some border dealt out, and what the last worker has taken on so far."""

    free: tuple[int, ...]
    """The devices without work: where any may be next, for each kind how many are no slower; else how many."""
    kind: int
    """The kind of the last worker's device, by the place of its speed among all speeds; -1 for no worker yet."""
    worker: int
    """The last one that has something, in the order in which they got it; -1 for none yet."""
    busy: float
    """Seconds busy of the last worker in each batch."""
    out: float
    """Bytes that its link sends."""
    back: float
    """Bytes that its link gets."""
    memory: float
    """Bytes that it holds, without the graph."""
    graph: float
    """Bytes of its largest block at work."""
    lanes: int
    """The lanes of the last stage, by this worker; its output is sent when it is known who takes it on."""
    before: PartialPlan | None = None
    """The one that this extends."""
    stage: tuple[int, int] = (0, 0)
    """The last stage: its first block, and the first one after it."""
    counts: tuple[int, ...] = ()
    """Lanes of the stage's workers in order; the last is `worker`."""
    kinds: tuple[int, ...] = ()
    """The kinds of their devices."""
    spent: float = 0.0
    """Seconds busy of all workers before the last, where they share cores."""

    @property
    def total(self) -> float:
        """Seconds busy of all workers so far."""
        return self.spent + self.busy if self.worker >= 0 else 0.0


class NextDevices(NamedTuple):
    """Devices that may be the next ones to get work."""

    kinds: tuple[int, ...]
    """Their kinds, in order."""
    free: tuple[int, ...]
    """Those without work then, as of `PartialPlan`."""
    left: float
    """The speeds of those and of the last of these, added up."""


class OpenStage(NamedTuple):
    """Blocks i..j by so many workers, of whom some have lanes already."""

    i: int
    j: int
    workers: int
    counts: tuple[int, ...] = ()
    """The lanes of those, in order."""
    kinds: tuple[int, ...] = ()
    """The kinds of their devices."""


def dealt_out(lanes: int, room: Sequence[int]) -> list[int]:
    """Lanes to workers with room for so many each: the first ones take all they can, but one for each other."""
    dealt: list[int] = []
    for place, each in enumerate(room):
        dealt.append(min(each, lanes - (len(room) - 1 - place)))
        lanes -= dealt[-1]
    return dealt


def compositions(have: Sequence[int], many: int) -> Iterator[tuple[int, ...]]:
    """Each way to take so many, of some of which there are so many each."""
    if not have:
        if not many:
            yield ()
        return
    for count in range(max(0, many - sum(have[1:])), min(have[0], many) + 1):
        for others in compositions(have[1:], many - count):
            yield (count, *others)


def is_covered(devices: tuple[int, ...], enough: set[tuple[int, ...]]) -> bool:
    """True if one of these devices is not needed, and is no slower than the last: it could stand for that one."""
    ordered = sorted(devices)
    places = (place for place, kind in enumerate(ordered) if kind <= devices[-1])
    return any((*ordered[:place], *ordered[place + 1 :]) in enough for place in places)


def start_of(run: PartialPlan) -> PartialPlan | None:
    """The run before the stage that ends this one."""
    before = run.before
    if before is not None and before.stage == run.stage and before.counts:
        return before.before  # the head of the same stage
    return before


def shares_of_lanes(run: PartialPlan, lanes: int) -> list[Share]:
    """The lanes of a stage in the order of its workers."""
    first, shares = 0, list[Share]()
    for place, count in enumerate(run.counts):
        shares.append(Share(run.worker - len(run.counts) + 1 + place, range(first, first + count)))
        first += count
    assert first == lanes
    return shares


def mirrored(shares: Sequence[Share], lanes: int) -> list[Share]:
    """Lanes counted from the other end: who has the last ones of one stage has the first ones of the next."""
    return [Share(share.worker, range(lanes - share.lanes.stop, lanes - share.lanes.start)) for share in shares]
