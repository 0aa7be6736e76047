"""The gradients of a block over the lanes of a batch, which one worker computes or several.

A worker adds up its lanes as far as the tree allows (`tree.py`), and posts the sums to the others of its stage while it
computes the next block. What then happens of a block's vector of gradients, or weights, is one of these:

    whole     each worker has sent all of its sums, takes all of the others', before the block is needed again, and
              updates the block as the others do
    slices    each has sent each of the others that one's slice of its sums. After the batch it adds up its own slice,
              updates it (`slices.py`), and hands the new weights on; before the block is needed again, it takes theirs.
              Where an update is not element by element, the summed gradients are handed on, and all update alike.

    halves    slices, in log2 W rounds each way, with one other worker in each (`halving.py`)

Either way not a bit differs, and all but the last block's exchange hides behind computing; of halves only the first
round does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.finite import NonfiniteValue
from ffdist.pipeline.flat import FlatParameters
from ffdist.pipeline.halving import Halving, halves_pay
from ffdist.pipeline.optim import is_elementwise
from ffdist.pipeline.running import BufferKey, RunningStatistics
from ffdist.pipeline.slices import OwnSlice
from ffdist.pipeline.stage_group import StageGroup
from ffdist.pipeline.synced_norm import synchronise
from ffdist.pipeline.tree import Node, PartialSum, total

RUNNING = "running"
"""What a frame calls the running statistics, beside the sums that it calls by their lanes."""


def slices_pay(workers: int, exchange: str = "auto") -> bool:
    """True if slices are the faster exchange: a worker sends 2 (W - 1) / W of the block, and not W - 1, in two rounds,
    and not one. exchange: as `plan.exchange`."""
    return workers > 2 if exchange == "auto" else exchange != "whole"


class Reduction:
    """One block's batch: from its lanes to its update."""

    def __init__(
        self,
        block: LearningBlock,
        lanes: range,
        num_lanes: int,
        group: StageGroup | None,
        *,
        dtype: torch.dtype | None = None,
        sliced: bool = False,
        halved: bool = False,
    ) -> None:
        """lanes: those that are computed here, of so many. dtype: to what sums are rounded; None: not. sliced: whether
        each worker adds up a slice alone; halved: by halves."""
        self.block = block
        self.lanes = lanes
        self.num_lanes = num_lanes
        self.group = group
        self.flat = FlatParameters(block.learned, str(block.spec))
        self.dtype = dtype
        many = len(group.shares) if group and sliced else 1
        self.halving = Halving(self.flat, group.place, many) if group and sliced and halved else None
        self.slices = self.halving.slices() if self.halving else self.flat.slices(many)
        """The slices of the vector, each worker's; the whole where each adds up all."""
        self.place = group.place if group and sliced else 0
        """The place of this worker's slice."""
        whole_only = not (many > 1 and self.flat.is_dense and block.learned and is_elementwise(block.config.settings))
        self.own = None if whole_only else OwnSlice(block, self.flat, self.slices, self.place)
        """Where each worker updates its slice alone."""
        self.partial = PartialSum(lanes, num_lanes, self._add)
        self.present: set[int] = set()
        self.trouble: NonfiniteValue | None = None
        """In some lane of the batch: then no worker takes the block's step."""
        synced = synchronise(block.parts) if block.config.settings.training.sync_norms else ()
        self.running = RunningStatistics(block.parts, synced, own_code=block.own_code)
        self.values: dict[Node, Tensor] = {}
        self.others: list[dict[BufferKey, Tensor]] = []
        self.summed: Tensor | None = None
        """This worker's slice of the gradients, added up over all lanes."""
        self.gathered: Tensor | None = None
        """All slices of it, as they come by halves, where all workers update alike."""

    def begin_run(self) -> None:
        """Called once the block holds what the run begins with: from here on the optimiser has this worker's slice
        alone, where each updates one."""
        if self.own:
            self.own.adopt()

    def begin(self, lane: int) -> None:
        """Called before a microbatch of that lane is computed."""
        self.block.lane = lane
        self.running.begin()

    def end_part(self, part: int) -> None:
        """Called after a microbatch."""
        self.running.take(part)

    def end_lane(self, lane: int) -> None:
        """Called after the last microbatch of a lane."""
        found = self.flat.gradients()
        if check := self.block.finite_check:
            if found:
                check.look_at_lane(found[0], self.num_lanes)
            self.trouble = check.take() or self.trouble
        self.partial.put(lane, None if found is None else self._rounded(found[0]))
        self.present |= set(found[1]) if found else set()

    def collect(self) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
        """Collect what the others need, called after the last lane that is computed here; tensors for each slice."""
        values = self.partial.take()
        self.values = {node: value[self.slices[self.place]] for node, value in values.items()}
        travelling = {f"{first}-{end}": self._short(value) for (first, end), value in values.items()}
        keys, running = packed(self.running.taken)
        tensors = [{name: value[part] for name, value in travelling.items()} | running for part in self.slices]
        return self._header(keys), tensors

    def collect_half(self, level: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same for the one worker that this one exchanges with at a level."""
        assert self.halving
        if not level:
            self.values = self.partial.take()
        keys, running = packed(
            {key: value for known in (self.running.taken, *self.others) for key, value in known.items()}
        )
        theirs = self.halving.half(self.halving.other(level), level)
        tensors = {f"{first}-{end}": self._short(value[theirs]) for (first, end), value in self.values.items()}
        return self._header(keys), tensors | running

    def _header(self, running: Sequence[BufferKey]) -> dict[str, Any]:
        trouble = self.trouble and self.trouble.as_json()
        return {"present": sorted(self.present), "running": running, "trouble": trouble}

    def receive_half(self, level: int, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take what that worker has collected, and add it to this one's."""
        assert self.halving
        mine, node = self.halving.half(self.halving.place, level), self.halving.node(level + 1)
        self.values = {each: value[mine] for each, value in self.values.items()}
        self.receive(fields, tensors)
        value = total(self.values, node, self._add)
        self.values = {} if value is None else {node: value}

    def receive(self, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take what another worker has collected."""
        self.values |= self._received(tensors)
        self.others.append(self._running(fields["running"], tensors))
        self.present |= set(fields["present"])
        self.trouble = self.trouble or NonfiniteValue.from_json(fields["trouble"])

    def add_up(self) -> None:
        """Add up the gradients of all lanes, which are here now, and take in what they made of running statistics."""
        if self.trouble:
            self.summed, self.values, self.others = None, {}, []
            self.running.drop()
            return
        self.summed = total(self.values, (0, self.num_lanes), self._add)
        if any(self.summed is value for value in self.values.values()):
            # what was sent, or lies in another's memory, may not change: clipping scales it
            self.summed = None if self.summed is None else self.summed.clone()
        self.running.end(self.others)
        self.values = {}
        self.others = []

    def update_own(self) -> dict[str, Tensor]:
        """Update this worker's slice, and return what the others need of it; called after `add_up`."""
        if self.summed is None:
            return {}
        if self.own is None and self.halving:
            self.gathered = self.summed.new_empty(self.flat.size)
            self.gathered[self.slices[self.place]] = self.summed
        if self.own is None:
            return {"summed": self._short(self.summed)}
        self.own.put(self.summed, sorted(self.present))
        self.block.descend()
        return {"weights": self.own.weights()}

    def collect_updates(self, level: int) -> dict[str, Tensor]:
        """Collect what the other worker of a level needs of all that is updated, or added up, here; called after
        `update_own`."""
        assert self.halving
        if self.summed is None:
            return {}
        part = self.halving.part(self.halving.place, level + 1)
        if self.own:
            return {"weights": self.own.weights_of(part)}
        assert self.gathered is not None
        return {"summed": self._short(self.gathered[part].clone())}  # what was sent may not change

    def receive_updates(self, level: int, tensors: Mapping[str, Tensor]) -> None:
        """Take the same of that worker."""
        assert self.halving
        part = self.halving.part(self.halving.other(level), level + 1)
        if self.own and tensors:
            self.own.take_part(part, tensors["weights"])
        elif self.gathered is not None:
            self.gathered[part] = self._long(tensors["summed"])

    def apply(self, slices: Mapping[int, Mapping[str, Tensor]] | None = None) -> None:
        """Complete the block's update. slices: by their places, what `update_own` gave elsewhere."""
        if self.trouble:
            self.block.skip(self.trouble)
        elif self.summed is not None and self.own:
            for place, tensors in (slices or {}).items():
                self.own.take(place, tensors["weights"])
            if self.block.finite_check:
                self.block.finite_check.end(None)
            self.block.rest_of_step()
        elif self.summed is not None:
            others = {place: self._long(tensors["summed"]) for place, tensors in (slices or {}).items()}
            flat = self.summed if self.gathered is None else self.gathered
            if slices is not None:
                flat = torch.cat([v for _, v in sorted({**others, self.place: self.summed}.items())])
            self.flat.put(flat, sorted(self.present))
            self.block.apply()
        self.summed, self.gathered, self.present, self.trouble = None, None, set(), None

    def whole(self, moments: Sequence[Mapping[str, Tensor]]) -> AbstractContextManager[None]:
        """A context in which the block's optimiser has all that it would have on one worker. moments: of each worker's
        slice."""
        return self.own.whole(moments) if self.own else nullcontext()

    def _add(self, one: Tensor, other: Tensor) -> Tensor:
        return self._rounded(one + other)

    def _rounded(self, value: Tensor) -> Tensor:
        """A gradient rounded as it travels, wherever it is added up."""
        return self._long(self._short(value)) if self.dtype else value

    def _short(self, value: Tensor) -> Tensor:
        """The value in the dtype in which gradients travel."""
        return value.to(self.dtype or value.dtype)

    def _long(self, value: Tensor) -> Tensor:
        """The value in the parameters' own dtype, and on their device."""
        return value.to(self.block.config.device, self.flat.parameters[0].dtype)

    def _received(self, tensors: Mapping[str, Tensor]) -> dict[Node, Tensor]:
        found: dict[Node, Tensor] = {}
        for name, tensor in tensors.items():
            if name != RUNNING:
                first, end = map(int, name.split("-"))
                found[first, end] = self._long(tensor)
        return found

    def _running(self, keys: Sequence[Any], tensors: Mapping[str, Tensor]) -> dict[BufferKey, Tensor]:
        if not keys:
            return {}
        buffers, data = self.running.buffers(), tensors[RUNNING]
        values = data.split_with_sizes([buffers[name].nbytes for _, name in keys])
        return {
            BufferKey(part, name): value.view(buffers[name].dtype).view(buffers[name].shape)
            for (part, name), value in zip(keys, values, strict=True)
        }


def packed(values: Mapping[BufferKey, Tensor]) -> tuple[list[BufferKey], dict[str, Tensor]]:
    """Running statistics as one tensor, and their keys in its order, in which each begins where its type may."""
    keys = sorted(values, key=lambda key: (-values[key].itemsize, key))
    return keys, {RUNNING: torch.cat([as_bytes(values[key]) for key in keys])} if keys else {}


def as_bytes(tensor: Tensor) -> Tensor:
    """uint8 [nbytes]."""
    return tensor.reshape(-1).view(torch.uint8)


def reductions_of(
    blocks: Sequence[LearningBlock], lanes: range, num_lanes: int, group: StageGroup | None
) -> list[Reduction]:
    """The reduction of each block, by its settings; none where a batch is one lane. lanes, group: as of `Reduction`."""
    if num_lanes == 1:
        return []
    settings = blocks[0].config.settings
    dtype = torch.bfloat16 if settings.training.exchange_dtype == "bf16" else None
    sliced = group is not None and slices_pay(len(group.shares), settings.plan.exchange)
    num_bytes = sum(parameter.nbytes for block in blocks for parameter in block.learned)
    halved = group is not None and halves_pay(len(group.shares), num_lanes, num_bytes, settings.plan.exchange)
    return [Reduction(block, lanes, num_lanes, group, dtype=dtype, sliced=sliced, halved=halved) for block in blocks]
