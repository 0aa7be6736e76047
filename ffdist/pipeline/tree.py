"""One order in which the lanes' values add up, whoever adds them: a binary tree over the lanes' numbers.

    of 4 lanes   ((0 + 1) + (2 + 3))        of 5   (((0 + 1) + (2 + 3)) + 4)        of 3   ((0 + 1) + 2)

A node's left half is the largest power of two that is smaller than it. a + b is b + a to the bit, so the tree decides
everything: a worker adds up the nodes that lie in its lanes, and what others send makes the rest. A lane without a
value is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

Node: TypeAlias = tuple[int, int]
"""Lanes from the first to before the second."""
V = TypeVar("V")
Add = Callable[[V, V], V]


def halves(node: Node) -> tuple[Node, Node]:
    """The two halves of a node of two lanes or more."""
    first, stop = node
    middle = first + (1 << ((stop - first - 1).bit_length() - 1))
    return (first, middle), (middle, stop)


def nodes_of(lanes: range, num_lanes: int) -> list[Node]:
    """The largest nodes of the tree over `num_lanes` lanes that lie within `lanes`, in order."""

    def within(node: Node) -> list[Node]:
        if node[0] >= lanes.stop or node[1] <= lanes.start:
            return []
        if lanes.start <= node[0] and node[1] <= lanes.stop:
            return [node]
        left, right = halves(node)
        return within(left) + within(right)

    return within((0, num_lanes)) if lanes else []


def total(values: Mapping[Node, V], node: Node, add: Add[V]) -> V | None:
    """The node's value, made of those of the nodes below it that are there; None where there are none."""
    if node in values:
        return values[node]
    if node[1] - node[0] == 1:
        return None
    left, right = (total(values, half, add) for half in halves(node))
    # a lane without samples adds nothing, not a zero: -0.0 + 0.0 is 0.0, another bit than one worker's
    if left is None or right is None:
        return right if left is None else left
    return add(left, right)


class PartialSum:
    """The sum of one worker's lanes, one after the other: no more values are kept than the tree is deep."""

    def __init__(self, lanes: range, num_lanes: int, add: Add[Tensor] = torch.add) -> None:
        self.wanted = nodes_of(lanes, num_lanes)
        self.add = add
        self.values: dict[Node, Tensor] = {}

    def put(self, lane: int, value: Tensor | None) -> None:
        """The value of the next lane; None for none."""
        if value is not None:
            self.values[lane, lane + 1] = value
        node = next(node for node in self.wanted if node[0] <= lane < node[1])
        self._collapse(node, lane + 1)

    def _collapse(self, node: Node, done: int) -> None:
        """Every node whose lanes are all there becomes one value."""
        if node[1] <= done:
            value = total(self.values, node, self.add)
            # the addends go at once: only so are no more values held than the tree is deep
            for inner in [inner for inner in self.values if node[0] <= inner[0] and inner[1] <= node[1]]:
                del self.values[inner]
            if value is not None:
                self.values[node] = value
        elif node[1] - node[0] > 1 and node[0] < done:
            for half in halves(node):
                self._collapse(half, done)

    def take(self) -> dict[Node, Tensor]:
        """The values of this worker's nodes; the next batch begins anew."""
        values, self.values = self.values, {}
        return values


def added_up(values: Sequence[Tensor]) -> Tensor:
    """The sum of all lanes' values, none of which is missing, in the tree's order."""
    found = total({(i, i + 1): value for i, value in enumerate(values)}, (0, len(values)), torch.add)
    assert found is not None
    return found
