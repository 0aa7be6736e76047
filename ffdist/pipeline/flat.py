"""A block's parameters as one vector, and as slices of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError

ALIGNMENT = 64
"""Numbers: where each parameter, and each slice, begins in a flat vector. So a slice ends where vector instructions do,
and an element-wise update takes the same ones for each number, whoever makes it."""


class ParameterPiece(NamedTuple):
    """The part of one parameter that lies in a slice."""

    number: int
    """The number of the parameter."""
    first: int
    """The first of its numbers as they lie in memory, ..."""
    end: int
    """... and the first one that is not the slice's."""


class FlatParameters:
    """The layout of one vector that holds all of a block's parameters, each aligned to `ALIGNMENT` numbers."""

    def __init__(self, parameters: Sequence[nn.Parameter], where: str) -> None:
        """where: the block, for errors. Raises NetworkError for parameters of several dtypes."""
        self.parameters = list(parameters)
        if len({p.dtype for p in self.parameters}) > 1:
            raise NetworkError(
                "lanes need weights of one type in a block",
                where=where,
                expected="one dtype",
                got=sorted(str(p.dtype) for p in self.parameters),
                remedy="one lane",
            )
        self.places: list[int] = []
        size = 0
        for parameter in self.parameters:
            self.places.append(size)
            size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.size = size
        self.layouts = [
            (p.size(), p.stride(), place) if is_dense(p) else (p.size(), None, place)
            for p, place in zip(self.parameters, self.places, strict=True)
        ]
        """For each parameter its size, its strides where it is dense, and its place."""
        self.padded = size > sum(p.numel() for p in self.parameters)

    @property
    def num_bytes(self) -> int:
        """The bytes of the vector."""
        return self.size * self.parameters[0].itemsize if self.parameters else 0

    @property
    def is_dense(self) -> bool:
        """True if the numbers of each parameter lie side by side in memory as they do in the vector."""
        return all(map(is_dense, self.parameters))

    def slices(self, many: int) -> list[slice]:
        """The vector in so many parts, as equal as its alignment allows."""
        units = self.size // ALIGNMENT
        ends = [units * n // many * ALIGNMENT for n in range(many + 1)]
        return [slice(first, end) for first, end in pairwise(ends)]

    def pieces(self, part: slice) -> list[ParameterPiece]:
        """The pieces of parameters in a part of the vector."""
        found = []
        for index, (parameter, place) in enumerate(zip(self.parameters, self.places, strict=True)):
            first, end = max(0, part.start - place), min(parameter.numel(), part.stop - place)
            if first < end:
                found.append(ParameterPiece(index, first, end))
        return found

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of the vector, laid out as it is."""
        begin = flat.storage_offset()
        return [
            flat.as_strided(size, stride, begin + place)
            if stride is not None
            else flat[place : place + size.numel()].view(size)
            for size, stride, place in self.layouts
        ]

    def gradients(self) -> tuple[Tensor, list[int]] | None:
        """A copy of all gradients, zero where there is none, and the numbers of those that there are; they are gone
        from the parameters then."""
        found = [parameter.grad for parameter in self.parameters]
        present = [number for number, grad in enumerate(found) if grad is not None]
        if not present:
            return None
        first, whole = self.parameters[0], len(present) == len(found) and not self.padded
        flat = (torch.empty if whole else torch.zeros)(self.size, dtype=first.dtype, device=first.device)
        views = self.views(flat)
        torch._foreach_copy_([views[number] for number in present], [grad for grad in found if grad is not None])
        for parameter in self.parameters:
            parameter.grad = None
        return flat, present

    def put(self, flat: Tensor, present: Sequence[int]) -> None:
        """Set the vector's parts as the gradients of these parameters."""
        views = self.views(flat)
        for index in present:
            self.parameters[index].grad = views[index]


def is_dense(tensor: Tensor) -> bool:
    """True if its numbers lie side by side, in whatever order."""
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def in_memory(tensor: Tensor) -> Tensor:
    """[N] over the same memory, in its order, of a tensor that is dense."""
    return tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
