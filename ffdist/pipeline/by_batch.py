"""A stage whose workers compute whole batches in turn.

Each worker has the whole of a batch, and what its blocks have learned goes round:

    worker 0    take A, learn A, give A    take B, learn B, give B    ...        (batch 0)
    worker 1                               take A, learn A, give A    take B ... (batch 1)

A block of batch t waits for that block of batch t - 1, and for nothing else: so blocks learn batch by batch, in order,
as on one worker, and as many batches are under way as there are workers. No activation is sent within the stage, and no
gradient; weights and what the optimiser keeps are. Where losses were not each block's own, backpropagation would give
the first block's weights last, and the next batch could not begin before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.exchange import of_block
from ffdist.pipeline.handover import Handover
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.sharing import check_replicas
from ffdist.pipeline.stage_group import STATES, StageGroup
from ffdist.transport.base import Frame

MAX_STATE_FRAMES = 60
"""The most frames of a batch's states: an edge holds them all, so that nobody waits for room in the middle of one, and
no edge is deeper than shared memory has slots."""
OTHER_FRAMES = 3
"""What else may wait on such an edge: of the batch before, and at a marker."""


class ByBatch:
    """A stage whose workers take whole batches in turn, as one of them sees it: see `Sharing`."""

    def __init__(self, group: StageGroup, blocks: Sequence[LearningBlock]) -> None:
        self.group = group
        self.reduces_with: StageGroup | None = None
        self.blocks = list(blocks)
        self.handovers = [Handover(block) for block in blocks]
        self.together = frames_of(len(self.blocks))
        workers = [share.worker for share in group.shares]
        self.before = workers[group.place - 1]
        self.next = workers[(group.place + 1) % len(workers)]
        self.settled = -1
        """The last batch, by its order, that all workers have taken in."""
        self.learned = -1
        """The last batch learned here, ..."""
        self.seen = -1
        """... and the last one that came."""
        self.counted: list[tuple[int, list[Tensor]]] = []
        """The order of each evaluated batch, and what its blocks have counted in it."""

    def __str__(self) -> str:
        return "every lane of batches in turn"

    def take(self, number: int, order: int) -> None:
        """Take the block's state from the worker of the batch before."""
        if order - 1 > self.settled:
            for numbers in self.together:
                if numbers[0] == number:
                    self._take(numbers)

    def give(self, number: int, step: int, order: int) -> None:
        """Send the block's state to the worker of the next batch."""
        self.learned = self.seen = order
        for numbers in self.together:
            if numbers[-1] == number:
                self._post(numbers, step)

    def settle(self, step: int) -> None:
        """Bring all that the last batch has taught, from the worker that learned from it, to all others."""
        group = self.group
        early = set[int]()

        def take_state(frame: Frame) -> None:
            self._take_over(frame)
            early.add(frame.fields["bucket"])

        # an edge keeps its order: a state that this worker has not asked for yet may lie in front of the word of who
        # sent it, and is taken at once rather than held in memory of its own
        group.take_state = take_state
        frames = group.gather("Progress", step, {}, learned=self.learned, seen=self.seen)
        group.take_state = None
        newest = max(frame.fields["learned"] for frame in frames.values())
        # the newest state goes round from the worker that learned last: its next one has it on the way already, the
        # others pass it on, and the one before it gets it last
        if newest > self.settled:
            distance = (group.place - newest) % len(group.shares)
            for numbers in self.together if distance else ():
                if numbers[0] not in early:
                    self._take(numbers)
                if distance < len(group.shares) - 1:
                    self._post(numbers, step)
        self.settled = max(frame.fields["seen"] for frame in frames.values())

    def count(self, order: int) -> None:
        """Kept by batch, as totals add up in the order of batches."""
        self.seen = order
        self.counted.append((order, [block.totals.clone() for block in self.blocks]))
        for block in self.blocks:
            block.totals.zero_()

    def give_up_evaluation(self) -> None:
        """See `Sharing`: what was kept by batch is forgotten, too."""
        self.counted.clear()
        for block in self.blocks:
            block.give_up_evaluation()

    def share_totals(self, step: int) -> None:
        """Add up what all have counted in evaluation, in the order of batches."""
        counted, self.counted = self.counted, []
        own = {
            block.spec.name: torch.stack([totals[number] for _, totals in counted])
            for number, block in enumerate(self.blocks)
            if counted
        }
        frames = self.group.gather("Totals", step, own, orders=[order for order, _ in counted])
        found = sorted(
            (order, place, worker)
            for worker, frame in frames.items()
            for place, order in enumerate(frame.fields["orders"])
        )
        for block in self.blocks:
            for _, place, worker in found:
                block.totals += frames[worker].tensors[block.spec.name][place].to(block.totals.device)

    def blocks_to_save(self, reductions: Sequence[Reduction], step: int) -> Iterator[list[LearningBlock]]:
        """All, on the first worker: after `settle` each has the whole of them."""
        check_replicas(self.group, self.blocks, step)
        yield self.blocks if self.group.leads else []

    def _take(self, numbers: range) -> None:
        self._take_over(self.group.take(STATES, numbers[0], [self.before])[self.before])

    def _take_over(self, frame: Frame) -> None:
        self.group.receive_announcements([frame])
        with self.group.exchanges("take over states"):
            for place, state in enumerate(frame.fields["states"]):
                self.handovers[frame.fields["bucket"] + place].take(state, of_block(place, frame))

    def _post(self, numbers: range, step: int) -> None:
        with self.group.exchanges("put states together"):
            given = [self.handovers[number].give() for number in numbers]
        fields = {
            "step": step,
            "bucket": numbers[0],
            "states": [state for state, _ in given],
            **self.group.announcements(step),
        }
        tensors = {f"{place} {name}": x for place, (_, found) in enumerate(given) for name, x in found.items()}
        self.group.post({self.next: Frame(STATES, fields, tensors)})


def frames_of(blocks: int) -> list[range]:
    """The numbers of consecutive blocks that travel in one frame: one alone, but for very many blocks."""
    each = -(-blocks // MAX_STATE_FRAMES)
    return [range(first, min(first + each, blocks)) for first in range(0, blocks, each)]
