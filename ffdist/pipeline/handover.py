"""All that a block has learned, as it goes from the worker of one batch to the worker of the next.

Weights, buffers, averaged weights, what the optimiser keeps and what has been counted travel as one vector of each
type, and are copied in place. Schedules go by the steps that they have taken, so that each worker's takes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffdist.pipeline.block import LearningBlock, with_strides_of
from ffdist.pipeline.flat import in_memory, is_dense
from ffdist.pipeline.muon import CombinedOptimizer
from ffdist.pipeline.optim import ADAM, ADAMW, SGD

IN_PLACE = (ADAM, ADAMW, SGD, CombinedOptimizer)
"""Optimisers that change in place what they keep of a parameter, from its first step on, and keep nothing else."""
Slot = tuple[int, str, Any]
"""What an optimiser keeps: the parameter's number, the name, and the value, a tensor or a number of Python's."""


class SameTypeTensors(NamedTuple):
    """Tensors of one type and device."""

    vectors: list[Tensor]
    """[N] each, over their memory."""
    sizes: list[int]
    device: torch.device
    scattered: list[tuple[Tensor, Tensor]]
    """Those that do not lie side by side in memory, with the copies that stand for them."""


Vectors = list[SameTypeTensors]


class Handover:
    """One block's state: what this worker gives to the next, and takes from the one before."""

    def __init__(self, block: LearningBlock) -> None:
        self.block = block
        self.parameters = [*block.parts.parameters()]
        self.owners = [module._buffers for module in block.parts.modules() if module._buffers]
        self.in_place = block.optimizer is None or isinstance(block.optimizer, IN_PLACE)
        self.slots: list[Slot] = []
        self.complete = block.optimizer is None
        """Whether the slots stay as they are."""
        self.described: list[Any] = []
        """The slots that the next worker knows of, ..."""
        self.is_known = False
        """... and whether they are those for good."""
        self.kept: tuple[list[Tensor], Vectors] | None = None
        """Buffers, and what travels where they are these, of blocks whose code is all known: a user's may put other
        memory under a weight."""

    def give(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields, and tensors that nothing changes any more; for the next worker, always the same."""
        block = self.block
        fields: dict[str, Any] = {"scheduled": block.scheduled}
        groups = self._find_slots()
        if groups is not None or not self.is_known:
            described = [[number, name, *described_as(value)] for number, name, value in self.slots]
            if groups is not None or described != self.described:
                fields |= {"slots": described, "groups": groups}
            self.described, self.is_known = described, self.complete
        if block.finite_check:
            fields["skipped"] = [block.finite_check.in_row, block.finite_check.in_epoch]
        if block.scale:
            fields["scale"] = block.scale.state()
        if block.average:
            fields["averaged"] = block.average.updates
        return fields, {str(place): torch.cat(part.vectors) for place, part in enumerate(self._vectors())}

    @torch.no_grad()
    def take(self, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Make this block's what `give` gave elsewhere."""
        block = self.block
        block.catch_up(fields["scheduled"])
        if "slots" in fields:
            self._make_room(fields["slots"])
        for place, part in enumerate(self._vectors()):
            torch._foreach_copy_(part.vectors, tensors[str(place)].to(part.device).split_with_sizes(part.sizes))
            for tensor, each in part.scattered:
                tensor.copy_(each.view(tensor.shape))
        if "slots" in fields:
            self._keep_slots(fields["groups"])
        if block.finite_check:
            block.finite_check.in_row, block.finite_check.in_epoch = fields["skipped"]
        if block.scale:
            block.scale.load_state(fields["scale"])
        if block.average:
            block.average.updates = fields["averaged"]

    def _vectors(self) -> Vectors:
        """All that travels, by type; the same list again while nothing has put other memory in its place."""
        buffers = [buffer for held in self.owners for buffer in held.values() if buffer is not None]
        if self.kept and len(buffers) == len(self.kept[0]) and all(map(is_, buffers, self.kept[0])):
            return self.kept[1]
        laid = by_type(self._tensors(buffers))
        lasting = self.complete and not self.block.own_code and not any(part.scattered for part in laid)
        self.kept = (buffers, laid) if lasting else None
        return laid

    def _tensors(self, buffers: Iterable[Tensor]) -> Iterable[Tensor]:
        """All tensors that travel, in an order that is the same on all workers."""
        yield from self.parameters
        yield from buffers
        yield from (value for _, _, value in self.slots if isinstance(value, Tensor))
        if self.block.average:
            yield from self.block.average.state().values()
        yield self.block.totals

    def _find_slots(self) -> list[dict[str, Any]] | None:
        """Look for what the optimiser keeps now; its groups, where they may hold more than schedules set."""
        optimizer = self.block.optimizer
        if optimizer is None or self.complete:
            return None
        saved = optimizer.state_dict()
        self.slots = slots_of(saved["state"])
        self.complete = self.in_place and len(saved["state"]) == len(self.block.learned)
        return None if self.in_place else saved["param_groups"]

    def _make_room(self, described: Sequence[Any]) -> None:
        """Make slots for what another's optimiser keeps, in its shapes and dtypes, for `take` to copy into."""
        self.slots = []
        for number, name, shape, value in described:
            if shape is None:
                self.slots.append((number, name, value))
                continue
            parameter = self.block.learned[number]
            room = torch.zeros(shape, dtype=getattr(torch, value.removeprefix("torch.")), device=parameter.device)
            self.slots.append((number, name, with_strides_of(parameter, room)))
        self.complete, self.is_known, self.kept = False, False, None

    def _keep_slots(self, groups: list[dict[str, Any]] | None) -> None:
        """Make the optimiser's state of the slots that `take` has filled. groups: as of `_find_slots`."""
        optimizer = self.block.optimizer
        if optimizer is None:
            return
        kept: dict[int, dict[str, Any]] = {}
        for number, name, value in self.slots:
            kept.setdefault(number, {})[name] = value
        if groups is None or type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict:
            saved = groups or optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": kept, "param_groups": saved})
        else:  # torch's own would cast what another worker keeps as it is
            optimizer.state.clear()
            optimizer.state.update({self.block.learned[number]: slots for number, slots in kept.items()})
            for own, group in zip(optimizer.param_groups, groups, strict=True):
                own |= {name: value for name, value in group.items() if name != "params"}
        self.kept = None
        self._find_slots()


def slots_of(state: Mapping[int, Mapping[str, Any]]) -> list[Slot]:
    """An optimiser's state as slots, by the parameters' numbers, then by name."""
    found = [
        (number, name, value if isinstance(value, (Tensor, int, float)) else torch.as_tensor(value))
        for number, kept in state.items()
        for name, value in kept.items()
        if value is not None
    ]
    return sorted(found, key=lambda slot: slot[:2])


def described_as(value: Any) -> tuple[Any, Any]:
    """Shape and type of a tensor; None, and the number itself, of a number."""
    return (list(value.shape), str(value.dtype)) if isinstance(value, Tensor) else (None, value)


def vector(tensor: Tensor) -> Tensor:
    """[N] over the tensor's memory; of what does not lie side by side, a copy."""
    return in_memory(tensor) if is_dense(tensor) else tensor.detach().reshape(-1).clone()


def by_type(tensors: Iterable[Tensor]) -> Vectors:
    """Those of one type and device together, in order."""
    found: dict[tuple[torch.dtype, str], list[Tensor]] = {}
    for each in tensors:
        found.setdefault((each.dtype, each.device.type), []).append(each)
    laid = []
    for together in found.values():
        vectors = [vector(tensor) for tensor in together]
        pairs = zip(together, vectors, strict=True)
        scattered = [(tensor, each) for tensor, each in pairs if not is_dense(tensor)]
        laid.append(SameTypeTensors(vectors, [len(each) for each in vectors], together[0].device, scattered))
    return laid
