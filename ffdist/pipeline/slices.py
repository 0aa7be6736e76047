"""One worker's slice of a block's update, where several share the block and the update is element by element.

Each worker updates its slice of the weights by its slice of the moments alone, and hands the new weights on (ZeRO-1,
Rajbhandari et al., 2020). The optimiser is torch's own, over views of the weights' memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.flat import FlatParameters, ParameterPiece, in_memory

COUNT = "step"
"""What torch's optimisers keep once a parameter; all else has a number for each of the parameter's."""


class OwnSlice:
    """The block's optimiser over one of the slices of its weights."""

    def __init__(self, block: LearningBlock, flat: FlatParameters, parts: Sequence[slice], own: int) -> None:
        """parts: of the flat vector, a worker each; own: which of them is this one's."""
        assert block.optimizer is not None
        self.optimizer = block.optimizer
        self.flat = flat
        self.begins = parts[own].start
        self.pieces = [flat.pieces(part) for part in parts]
        self.own = self.pieces[own]
        ranges = {piece.number: (piece.first, piece.end) for piece in self.own}
        self.views = [
            nn.Parameter(in_memory(p)[slice(*ranges.get(i, (0, 0)))], requires_grad=False)
            for i, p in enumerate(flat.parameters)
        ]
        """What this worker updates of each parameter; of some, nothing."""

    def adopt(self) -> None:
        """Give the optimiser this slice alone from now on; of the moments that it had, the slice's are kept."""
        for piece in self.own:
            parameter = self.flat.parameters[piece.number]
            slots = self.optimizer.state.get(parameter, {})
            self.optimizer.state[self.views[piece.number]] = {
                name: value if name == COUNT else in_memory(value)[piece.first : piece.end].clone()
                for name, value in slots.items()
                if isinstance(value, Tensor)
            }
        for parameter in self.flat.parameters:
            self.optimizer.state.pop(parameter, None)
        self._take_as_parameters(self.views)

    def put(self, flat: Tensor, present: Sequence[int]) -> None:
        """Set the gradients of these parameters for the optimiser's next step. flat: the slice's gradients."""
        for index, first, end in self.own:
            if index in present:
                place = self.flat.places[index] - self.begins
                self.views[index].grad = flat[place + first : place + end]

    def weights(self) -> Tensor:
        """A copy of the slice's weights [N], as `take` has them."""
        return self._weights(self.own)

    def weights_of(self, part: slice) -> Tensor:
        """A copy of the weights [N] in a part of the vector, as `take_part` has them."""
        return self._weights(self.flat.pieces(part))

    def _weights(self, pieces: Sequence[ParameterPiece]) -> Tensor:
        found = [in_memory(self.flat.parameters[index])[first:end] for index, first, end in pieces]
        return torch.cat(found) if found else in_memory(self.flat.parameters[0])[:0].clone()

    def take(self, place: int, weights: Tensor) -> None:
        """Take what another worker's `weights` gave; place: of its slice among them."""
        self._take(self.pieces[place], weights)

    def take_part(self, part: slice, weights: Tensor) -> None:
        """Take what another worker's `weights_of` gave."""
        self._take(self.flat.pieces(part), weights)

    @torch.no_grad()
    def _take(self, pieces: Sequence[ParameterPiece], weights: Tensor) -> None:
        parts = weights.split([end - first for _, first, end in pieces])
        for (index, first, end), part in zip(pieces, parts, strict=True):
            in_memory(self.flat.parameters[index])[first:end].copy_(part)

    def moments(self) -> dict[str, Tensor]:
        """All that the optimiser keeps of the slice, by parameter and name."""
        return {
            f"{index} {name}": value
            for index, *_ in self.own
            for name, value in self.optimizer.state.get(self.views[index], {}).items()
            if isinstance(value, Tensor)
        }

    @contextmanager
    def whole(self, moments: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
        """A context in which the optimiser has the whole block. moments: of each slice, as `moments` gives them."""
        for pieces, slice_moments in zip(self.pieces, moments, strict=True):
            for index, first, end in pieces:
                parameter = self.flat.parameters[index]
                slots = self.optimizer.state.setdefault(parameter, {})
                for key, value in slice_moments.items():
                    number, name = key.split(" ", 1)
                    if int(number) != index:
                        continue
                    if name == COUNT:
                        slots[name] = value
                        continue
                    if name not in slots:
                        slots[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
                    in_memory(slots[name])[first:end].copy_(value)
        own = {view: self.optimizer.state.pop(view) for view in self.views if view in self.optimizer.state}
        self._take_as_parameters(self.flat.parameters)
        try:
            yield
        finally:
            for parameter in self.flat.parameters:
                self.optimizer.state.pop(parameter, None)
            for view, slots in own.items():
                self.optimizer.state[view] = slots
            self._take_as_parameters(self.views)

    def _take_as_parameters(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take these in place of what the optimiser had, one for one: its groups, and all that schedules set in them,
        stay."""
        fresh = iter(parameters)
        for group in self.optimizer.param_groups:
            group["params"] = [next(fresh) for _ in group["params"]]
