"""The parts of a block's vector that two workers exchange, where a stage's add up by halves (recursive halving and
doubling: Thakur, Rabenseifner and Gropp, 2005).

    level 0      0-1, 2-3     each sends the other one half of its sums, and adds up the half that it keeps
    level 1      0-2, 1-3     the same with what is left: now each has a quarter, added up over all
    update                    of that quarter
    level 1, 0                back again: each sends all new weights that it has, and then has twice as many

Siblings of the lanes' tree go first, so that every addition is one of the tree's.
"""

from __future__ import annotations

from ffdist.pipeline.flat import FlatParameters
from ffdist.pipeline.tree import Node

MIN_WORKERS = 16
"""The workers from which on 2 log2 W messages, all but one of which nothing hides, are so many fewer than 2 (W - 1)
that they are faster, ..."""
MAX_BYTES = 2**22
"""... where a worker's slice of a stage's gradients is no larger; a larger one's bytes take longer than its message."""


def halves_pay(workers: int, lanes: int, num_bytes: int, exchange: str = "auto") -> bool:
    """True if a stage's workers add up by halves: a power of two of them with a lane each, as siblings of the tree are.

    num_bytes: of the stage's gradients. exchange: as `plan.exchange`.
    """
    fit = workers == lanes > 1 and workers & (workers - 1) == 0
    pays = workers >= MIN_WORKERS and num_bytes <= workers * MAX_BYTES
    return fit and (pays if exchange == "auto" else exchange == "halves")


class Halving:
    """The levels, as one of the workers goes through them."""

    def __init__(self, flat: FlatParameters, place: int, workers: int) -> None:
        """place: this worker's among so many, and its lane."""
        self.place = place
        self.levels = workers.bit_length() - 1
        self.in_order = flat.slices(workers)

    def slices(self) -> list[slice]:
        """The slice of the vector that each worker ends with."""
        return [self.part(place, self.levels) for place in range(len(self.in_order))]

    def part(self, place: int, level: int) -> slice:
        """The part of the vector that a worker still adds up before a level."""
        size = len(self.in_order) >> level
        first = mirrored(place, self.levels) // size * size
        return slice(self.in_order[first].start, self.in_order[first + size - 1].stop)

    def other(self, level: int) -> int:
        """The place of the worker that this one exchanges with."""
        return self.place ^ 1 << level

    def half(self, place: int, level: int) -> slice:
        """The half that one of these two keeps, within the part that both have."""
        begin, half = self.part(place, level).start, self.part(place, level + 1)
        return slice(half.start - begin, half.stop - begin)

    def node(self, level: int) -> Node:
        """The lanes over which this worker has added up before a level."""
        first = self.place >> level << level
        return first, first + (1 << level)


def mirrored(number: int, bits: int) -> int:
    """The number with its last so many bits in the other order."""
    return sum((number >> bit & 1) << (bits - 1 - bit) for bit in range(bits))
