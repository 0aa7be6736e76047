"""The gradients of a block over the lanes of a batch, which one worker computes or several.

A worker adds up its lanes as far as the tree allows (`tree.py`), posts the sums to the others of its stage while it
computes the next block, and takes theirs before the block is needed again. So all but the last block's exchange hides
behind computing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, StageError
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.running import Key, RunningStatistics
from ffdist.pipeline.tree import Node, Partial, total
from ffdist.plan import Share
from ffdist.transport.base import Frame, Receiver, Sender

MOST_BUCKETS = 4
"""Of a stage: an edge holds the frames of a whole batch, so that nobody waits for room in the middle of one."""
ALIGNMENT = 64
"""Numbers: where each parameter begins in a flat vector."""


class Team:
    """The workers of one stage, as one of them sees the others."""

    def __init__(
        self,
        worker: int,
        shares: Sequence[Share],
        senders: Mapping[int, Sender],
        receivers: Mapping[int, Receiver],
        stop: Event | None = None,
    ) -> None:
        """senders, receivers: to and from each of the others. stop: on the worker that is told to end the run early."""
        self.worker, self.shares = worker, list(shares)
        self.senders, self.receivers = senders, receivers
        self.stop = stop or Event()
        self.told: int | None = None
        """The batch with which the others were told that the run is to end early."""
        self.exchanging = self.waited = 0.0
        """Seconds so far of sending and adding up; of waiting for the others."""

    @property
    def others(self) -> list[int]:
        return [share.worker for share in self.shares if share.worker != self.worker]

    def post(self, frame: Frame) -> None:
        """To each of the others; returns when it is on its way."""
        began = time.perf_counter()
        for worker in self.others:
            self.senders[worker].send(frame)
        self.exchanging += time.perf_counter() - began

    def take(self, kind: str) -> dict[int, Frame]:
        """The next frame of each of the others. Raises StageError where one is at another point."""
        began = time.perf_counter()
        frames = {worker: self.receivers[worker].recv() for worker in self.others}
        self.waited += time.perf_counter() - began
        for worker, frame in frames.items():
            if frame.kind != kind:
                raise StageError("the workers of a stage are not at the same point", where=f"worker {self.worker}",
                                 expected=kind, got=f"{frame.kind} of worker {worker}",
                                 remedy="run the same version of ffdist at every stage")  # fmt: skip
        return frames

    def gather(self, kind: str, fields: dict[str, Any], tensors: dict[str, Tensor]) -> dict[int, Frame]:
        """What each worker has, this one's too."""
        mine = Frame(kind, fields, tensors)
        self.post(mine)
        return {self.worker: mine, **self.take(kind)}

    def tell(self, step: int) -> int | None:
        """With which batch the others are told that the run is to end early; None: it goes on."""
        if self.stop.is_set() and self.told is None:
            self.told = step
        return self.told

    def hear(self, frames: Iterable[Frame]) -> None:
        """What the others tell of it."""
        for frame in frames:
            if self.told is None:
                self.told = frame.fields["told"]

    def is_told(self, step: int, *, waiting: bool = True) -> bool:
        """Whether the run is to end behind batch `step`, the same on every worker: what came with an exchange is known
        to all when the next batch's first block has been computed; and at once where nothing is under way."""
        return self.told is not None and self.told <= step - waiting


class Flat:
    """A block's parameters as one vector."""

    def __init__(self, parameters: Sequence[nn.Parameter], where: str) -> None:
        self.parameters = list(parameters)
        if len({p.dtype for p in self.parameters}) > 1:
            raise NetworkError("lanes need weights of one type in a block", where=where, expected="one dtype",
                               got=sorted(str(p.dtype) for p in self.parameters), remedy="one lane")  # fmt: skip
        self.places: list[int] = []
        size = 0
        for parameter in self.parameters:
            self.places.append(size)
            size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.size = size

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of the vector, laid out as it is."""
        return [
            flat.as_strided(p.size(), p.stride(), flat.storage_offset() + place)
            if is_dense(p)
            else flat[place : place + p.numel()].view(p.size())
            for p, place in zip(self.parameters, self.places, strict=True)
        ]

    @torch.no_grad()
    def gradients(self) -> tuple[Tensor, list[int]] | None:
        """A copy of all gradients, zero where there is none, and the numbers of those that there are; they are gone
        from the parameters then."""
        present = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        if not present:
            return None
        first = self.parameters[0]
        flat = torch.zeros(self.size, dtype=first.dtype, device=first.device)
        views = self.views(flat)
        for index in present:
            grad = self.parameters[index].grad
            assert grad is not None
            views[index].copy_(grad)
            self.parameters[index].grad = None
        return flat, present

    def put(self, flat: Tensor, present: Sequence[int]) -> None:
        """The vector's parts as the gradients of those parameters."""
        views = self.views(flat)
        for index in present:
            self.parameters[index].grad = views[index]


class Reduction:
    """One block's batch: from its lanes to its update."""

    def __init__(
        self, block: LearningBlock, lanes: range, of: int, team: Team | None, dtype: torch.dtype = torch.float32
    ) -> None:
        """lanes: those that are computed here, of so many. dtype: to what sums are rounded, if less than float32."""
        self.block, self.lanes, self.of, self.team, self.dtype = block, lanes, of, team, dtype
        self.flat = Flat(block.learned, str(block.site))
        self.partial = Partial(lanes, of, self._add)
        self.present: set[int] = set()
        self.running = RunningStatistics(block.parts)
        self.values: dict[Node, Tensor] = {}
        self.others: list[dict[Key, Tensor]] = []

    def begin(self, lane: int) -> None:
        """Before a microbatch."""
        self.block.lane = lane
        self.running.begin()

    def end_part(self, part: int) -> None:
        """Behind a microbatch."""
        self.running.take(part)

    def end_lane(self, lane: int) -> None:
        """Behind the last microbatch of a lane."""
        found = self.flat.gradients()
        self.partial.put(lane, None if found is None else self._rounded(found[0]))
        self.present |= set(found[1]) if found else set()

    def collect(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Behind the last lane that is computed here: what the others need of it."""
        self.values = self.partial.take()
        tensors = {f"{first}-{behind}": value.to(self.dtype) for (first, behind), value in self.values.items()}
        by_type: dict[str, list[Key]] = {}
        for key in sorted(self.running.taken):
            by_type.setdefault(str(self.running.taken[key].dtype), []).append(key)
        for kind, keys in by_type.items():
            tensors[f"running {kind}"] = torch.cat([self.running.taken[key].flatten() for key in keys])
        return {"present": sorted(self.present), "running": by_type}, tensors

    def receive(self, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """What another worker has collected."""
        self.values |= self._received(tensors)
        self.others.append(self._running(fields["running"], tensors))
        self.present |= set(fields["present"])

    def apply(self) -> None:
        """Update the block by all lanes of the batch."""
        flat = total(self.values, (0, self.of), self._add)
        self.running.end(self.others)
        if flat is not None:
            if any(flat is value for value in self.values.values()):
                flat = flat.clone()  # what was sent, or lies in another's memory, may not change: clipping scales it
            self.flat.put(flat, sorted(self.present))
            self.block.step()
        self.values, self.others, self.present = {}, [], set()

    def _add(self, one: Tensor, other: Tensor) -> Tensor:
        return self._rounded(one + other)

    def _rounded(self, value: Tensor) -> Tensor:
        """As it travels, wherever it is added up."""
        return value if self.dtype == value.dtype else value.to(self.dtype).to(value.dtype)

    def _received(self, tensors: Mapping[str, Tensor]) -> dict[Node, Tensor]:
        found: dict[Node, Tensor] = {}
        for name, tensor in tensors.items():
            if not name.startswith("running "):
                first, behind = map(int, name.split("-"))
                found[first, behind] = tensor.to(self.block.config.device, self.flat.parameters[0].dtype)
        return found

    def _running(self, keys_by_type: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[Key, Tensor]:
        found: dict[Key, Tensor] = {}
        shapes = {name: buffer.shape for name, buffer in self.block.parts.named_buffers()}
        for kind, keys in keys_by_type.items():
            sizes = [shapes[name].numel() for _, name in keys]
            values = tensors[f"running {kind}"].split(sizes)
            for (part, name), value in zip(keys, values, strict=True):
                found[Key(part, name)] = value.view(shapes[name])
        return found


class Bucket:
    """Consecutive blocks of a stage whose gradients travel together."""

    def __init__(self, reductions: Sequence[Reduction], team: Team | None) -> None:
        self.reductions, self.team = list(reductions), team
        self.step = 0
        self.pending = False
        """Whether the batch's updates are still to come."""

    def post(self, step: int) -> None:
        """Behind the last lane that is computed here, of the last block."""
        self.step, self.pending = step, True
        found = [reduction.collect() for reduction in self.reductions]
        if self.team is None:
            return
        fields: dict[str, Any] = {"step": step, "told": self.team.tell(step), "blocks": [of for of, _ in found]}
        tensors = {f"{i} {name}": value for i, (_, of) in enumerate(found) for name, value in of.items()}
        self.team.post(Frame("Gradients", fields, tensors))

    def finish(self) -> None:
        """Take what the others have posted, and update the blocks.

        Only behind the batch, when all that is computed here of it is on its way: another worker may wait until what
        follows has taken it.
        """
        if not self.pending:
            return
        self.pending = False
        frames = self.team.take("Gradients") if self.team else {}
        began = time.perf_counter()
        for frame in frames.values():
            for i, (reduction, fields) in enumerate(zip(self.reductions, frame.fields["blocks"], strict=True)):
                own = {
                    name.partition(" ")[2]: value for name, value in frame.tensors.items() if name.startswith(f"{i} ")
                }
                reduction.receive(fields, own)
        for reduction in self.reductions:
            reduction.apply()
        if self.team:
            self.team.hear(frames.values())
            self.team.exchanging += time.perf_counter() - began


def in_buckets(reductions: Sequence[Reduction], team: Team | None) -> list[Bucket]:
    """Few enough that an edge holds a batch's, and of like size; a block each where nothing is exchanged."""
    if team is None or len(reductions) <= MOST_BUCKETS:
        return [Bucket([reduction], team) for reduction in reductions]
    whole = sum(reduction.flat.size for reduction in reductions) or 1
    groups: list[list[Reduction]] = [[]]
    so_far = 0
    for reduction in reductions:
        if groups[-1] and so_far * MOST_BUCKETS >= whole * len(groups) and len(groups) < MOST_BUCKETS:
            groups.append([])
        groups[-1].append(reduction)
        so_far += reduction.flat.size
    return [Bucket(group, team) for group in groups]


def digest_of(block: LearningBlock) -> str:
    """Of all that a snapshot would hold of the block."""
    tensors, fields = block.state()
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_dense(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side, in whatever order."""
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
