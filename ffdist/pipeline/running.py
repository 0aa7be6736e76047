"""Running statistics of a block over the lanes of a batch.

Each microbatch finds the buffers as they were when the batch began, wherever it is computed; after the batch they take
in what all microbatches made of them, in order. So a running mean is the same under every plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as NormBase


class BufferKey(NamedTuple):
    """The key of a buffer's value after a microbatch."""

    part: int
    name: str


class RunningStatistics:
    """The buffers of a block that change while it learns."""

    def __init__(self, parts: nn.Module, synced: Collection[str] = (), *, own_code: bool = True) -> None:
        """synced: buffers that are written to once a batch, by one microbatch for all. own_code: whether modules may
        come and go, as those of a user's own may."""
        self.parts = parts
        self.synced = set(synced)
        self.momentum = norm_momenta(parts)
        self.unseen = self.momentum.keys() - self.synced
        """Buffers to which torch writes without counting it."""
        self.owners = None if own_code else owners(parts)
        self.held: dict[str, Tensor] | None = None
        """Those of a block without own code, looked for once a batch."""
        self.begun: dict[str, Tensor] = {}
        """As they were when the batch began."""
        self.seen: dict[str, tuple[Tensor, int]] = {}
        """Each buffer, and how often it had been written to when it was last looked at."""
        self.taken: dict[BufferKey, Tensor] = {}

    def buffers(self) -> dict[str, Tensor]:
        """The block's buffers by their names, each once."""
        if self.held is not None:
            return self.held
        found: dict[int, tuple[str, Tensor]] = {}
        for prefix, held in owners(self.parts) if self.owners is None else self.owners:
            for name, buffer in held.items():
                if buffer is not None:
                    found.setdefault(id(buffer), (prefix + name, buffer))
        return dict(found.values())

    def begin(self) -> None:
        """Called before the first microbatch that is computed here."""
        if self.begun:
            return
        buffers = self.buffers()
        self.held = None if self.owners is None else buffers
        for name, buffer in buffers.items():
            self.begun[name] = buffer.detach().clone()
            self.seen[name] = (buffer, buffer._version)

    def take(self, part: int) -> None:
        """Called after a microbatch: keep what it made of the buffers, and put them back."""
        with torch.no_grad():
            for name, buffer in self.buffers().items():
                before, version = self.seen.get(name, (None, -1))
                # torch counts writes to a tensor, so that untouched buffers need no comparison; a replaced one is new
                if before is buffer and version == buffer._version and name not in self.unseen:
                    continue
                self.taken[BufferKey(part, name)] = buffer.clone()
                buffer.copy_(self.begun[name])
                self.seen[name] = (buffer, buffer._version)

    @torch.no_grad()
    def put_back(self, part: int) -> None:
        """Called before a microbatch that has been left goes on: give it its buffers as it left them."""
        for name, buffer in self.buffers().items():
            if (value := self.taken.get(BufferKey(part, name))) is not None:
                buffer.copy_(value)

    def drop(self) -> None:
        """Called after a batch that is not learned from: the buffers are as they were when it began."""
        self.begun, self.seen, self.taken, self.held = {}, {}, {}, None

    @torch.no_grad()
    def end(self, others: Iterable[Mapping[BufferKey, Tensor]] = ()) -> None:
        """Called after the batch: take in what all microbatches made; others: of those that were computed
        elsewhere."""
        made = dict(self.taken)
        for other in others:
            made |= other
        by_name: dict[str, list[Tensor]] = {}
        for key in sorted(made):
            by_name.setdefault(key.name, []).append(made[key])
        buffers = self.buffers()
        alike: dict[tuple[float, int], list[str]] = {}
        for name, values in by_name.items():
            momentum = self.momentum.get(name)
            if momentum is not None and buffers[name].is_floating_point():
                alike.setdefault((momentum, len(values)), []).append(name)
                continue
            buffer = buffers[name]
            start = self.begun.get(name, buffer)  # a worker without samples has not begun
            buffer.copy_(in_order(start, [v.to(buffer.device) for v in values], momentum))
        for (momentum, many), names in alike.items():
            starts = [self.begun.get(name, buffers[name]) for name in names]
            values = [[by_name[name][n].to(buffers[name].device) for name in names] for n in range(many)]
            torch._foreach_copy_([buffers[name] for name in names], with_momentum(starts, values, momentum))
        self.drop()


def owners(parts: nn.Module) -> list[tuple[str, dict[str, Tensor | None]]]:
    """The modules that hold running statistics, with the prefixes of their buffers' names."""
    return [(f"{prefix}." if prefix else "", module._buffers) for prefix, module in parts.named_modules()]


def with_momentum(starts: list[Tensor], values: list[list[Tensor]], momentum: float) -> list[Tensor]:
    """The values of several buffers after microbatches that each made of them one row of `values`.

    Each microbatch is (1 - m) * start + m * s, and s is taken in one after the other.
    """
    # value + (1 - m) * (now - start) = (1 - m) * now + m * s: as if this microbatch had begun from `now`
    now = values[0]
    for value in values[1:]:
        grown = list(torch._foreach_sub(now, starts))
        torch._foreach_mul_(grown, 1 - momentum)
        now = list(torch._foreach_add(value, grown))
    return now


def in_order(start: Tensor, values: list[Tensor], momentum: float | None) -> Tensor:
    """The value of a buffer after microbatches that each made one of `values` of `start`.

    With a momentum see `with_momentum`. Counts grow by all their growth. Of other floats it is the mean, of anything
    else the last.
    """
    if not start.is_floating_point() and start.dtype != torch.bool:
        return start + sum((value - start for value in values), torch.zeros_like(start))
    if start.dtype == torch.bool:
        return values[-1]
    if momentum is not None:
        return with_momentum([start], [[value] for value in values], momentum)[0]
    now = values[0]
    for value in values[1:]:
        now = now + value
    return now / len(values) if len(values) > 1 else now


def norm_momenta(parts: nn.Module) -> dict[str, float | None]:
    """The running means and variances of batch and instance norms by name, with their momentum."""
    return {
        f"{prefix}.{kind}" if prefix else kind: module.momentum
        for prefix, module in parts.named_modules()
        if isinstance(module, NormBase)
        for kind in ("running_mean", "running_var")
    }
