"""The division of a batch into lanes, and of each lane into microbatches."""

from __future__ import annotations

from typing import NamedTuple


class MicrobatchRange(NamedTuple):
    """The place of a microbatch in its batch: its lane, and its rows."""

    lane: int
    number: int
    """The number of the microbatch in its batch: lane * microbatches + its place in the lane."""
    rows: slice
    """Its samples within the whole batch; none where there are fewer samples than lanes."""
    last: bool
    """Whether its lane ends with it."""

    @property
    def samples(self) -> int:
        """The number of its samples; 0 where its lane has none."""
        return self.rows.stop - self.rows.start


def parts(samples: int, lanes: int, microbatches: int, own: range | None = None) -> list[MicrobatchRange]:
    """The microbatches of a batch of so many samples, in order; own: of these lanes alone.

    Lane l has the rows from samples * l // lanes on, as a rank under data parallelism; its microbatches are as equal as
    `Tensor.chunk` makes them, and may be fewer. A lane without samples has one microbatch without any.
    """
    found: list[MicrobatchRange] = []
    for lane in own if own is not None else range(lanes):
        first, stop = samples * lane // lanes, samples * (lane + 1) // lanes
        size = max(1, -(-(stop - first) // microbatches))
        starts = range(first, stop, size) or range(first, first + 1)
        for place, start in enumerate(starts):
            rows = slice(start, min(start + size, stop))
            found.append(MicrobatchRange(lane, lane * microbatches + place, rows, start == starts[-1]))
    return found
