"""NaN and infinity, where a batch brings a block to them: the run stops, or the block takes no step in that batch.

Looked at is what a block makes of a batch: its loss, what it passes on, its gradients. Each block decides by itself, by
its own numbers alone, so that no plan changes a bit; what it passes on goes on as it is, and blocks after it that meet
NaN there decide so too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ffdist.device import queues
from ffdist.errors import DivergedError, setting
from ffdist.objectives import BlockSpec, Local

OnNan = Literal["stop", "skip"]
MAX_SKIPPED = 20
"""Batches in a row in which a block may take no step: more is no matter of single batches."""
RECENT = 50
"""Losses that are kept on a GPU, where a look waits for the device, until they are looked at."""


@dataclass(frozen=True, slots=True)
class NonfiniteValue:
    """A value that is not finite, which a block made of a batch."""

    what: str
    """The loss, the output, or the gradients."""
    value: float
    """NaN, or an infinity."""

    def as_json(self) -> list[Any]:
        """The value as text, since JSON has no NaN."""
        return [self.what, repr(self.value)]

    @classmethod
    def from_json(cls, value: list[Any] | None) -> NonfiniteValue | None:
        """The inverse of `as_json`; None for None."""
        return None if value is None else cls(str(value[0]), float(value[1]))


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """A batch that brought a block to NaN or infinity."""

    spec: BlockSpec
    step: int
    """The batch's number in the run, from 1."""
    epoch: int
    """From 0."""
    trouble: NonfiniteValue
    skipped: bool
    """Whether the run goes on without the block's step."""


Keep = Callable[[Nonfinite], str | None]
"""Told of each; returns where the samples' numbers are kept."""


class FiniteCheck:
    """Checks what one block makes of its batches for NaN and infinity."""

    def __init__(self, spec: BlockSpec, policy: OnNan, device: torch.device) -> None:
        self.spec = spec
        self.policy = policy
        self.at_once = policy == "skip" or not queues(device)
        """Whether each batch is looked at; on a GPU, where that would wait for it, only where batches are skipped."""
        self.keep: Keep = lambda found: None
        self.step = 0
        self.epoch = 0
        """The epoch of the batch at work."""
        self.found: NonfiniteValue | None = None
        """The first value that is not finite in the batch at work."""
        self.in_row = 0
        self.in_epoch = 0
        """Batches in which the block took no step: one after the other; since the last split."""
        self.before: list[tuple[Tensor, Tensor]] = []
        """Buffers, and what they were before the batch."""
        self.losses = torch.zeros(RECENT, device=device) if not self.at_once else None

    @torch.no_grad()
    def begin(self, step: int, epoch: int, parts: nn.Module, *, first: bool) -> None:
        """Called before a block computes a part of a batch; first: of the batch, where it computes all of it."""
        self.step = step
        self.epoch = epoch
        if first and self.policy == "skip":
            self.before = [(buffer, buffer.clone()) for buffer in parts.buffers()]

    def seen(self, local: Local) -> Local:
        """Look at what the block has made of a part of a batch, before it goes on. Raises DivergedError where the run
        is to stop."""
        if local.loss is None:
            return local
        if self.losses is not None:
            self.losses[self.step % RECENT] = local.loss.detach()
        if not self.at_once:
            return local
        if not math.isfinite(value := float(local.loss.detach())):
            return self._with_finite_scores(local, NonfiniteValue("loss", value))
        if local.next_input is not None and not is_finite(local.next_input):
            return self._with_finite_scores(local, NonfiniteValue("output", first_bad(local.next_input)))
        return local

    def _with_finite_scores(self, local: Local, trouble: NonfiniteValue) -> Local:
        """Scores that a source may want to hear of are numbers: such a batch says nothing of its samples."""
        self.note(trouble)
        scores = local.scores
        return local if scores is None else local._replace(scores=torch.nan_to_num(scores.detach(), 0.0, 0.0, 0.0))

    def look_at(self, gradients: Iterable[Tensor]) -> None:
        """Look at the gradients of a whole batch. Raises DivergedError where the run is to stop."""
        if self.at_once and self.found is None:
            for gradient in gradients:
                if not is_finite(gradient):
                    self.note(NonfiniteValue("gradients", first_bad(gradient)))
                    return

    def look_at_lane(self, flat: Tensor, num_lanes: int) -> None:
        """flat: a lane's gradients, of so many lanes, whose sum is to be finite as well."""
        if not self.at_once or self.found is not None or not flat.numel():
            return
        low, high = map(float, torch.aminmax(flat))
        # as if all lanes were as large as this one: each judges alone, and yet no sum can overflow; NaN fails, too
        if not max(-low, high) * num_lanes <= torch.finfo(flat.dtype).max:
            self.note(NonfiniteValue("gradients", low if not math.isfinite(low) else high))

    def note(self, trouble: NonfiniteValue) -> None:
        """Raises DivergedError where the run is to stop."""
        if self.policy == "stop":
            raise self.diverged_error(trouble)
        self.found = self.found or trouble

    def take(self) -> NonfiniteValue | None:
        """Take what was found in the batch, or the lane, that is complete now."""
        found, self.found = self.found, None
        return found

    @torch.no_grad()
    def end(self, trouble: NonfiniteValue | None) -> None:
        """Called after a batch. trouble: for which the block takes no step; its buffers are again what they were.

        Raises DivergedError where that goes on and on.
        """
        before, self.before = self.before, []
        if trouble is None:
            self.in_row = 0
            return
        for buffer, value in before:
            buffer.copy_(value)
        self.in_row += 1
        self.in_epoch += 1
        if self.in_row > MAX_SKIPPED:
            raise self.diverged_error(trouble, f", batch after batch ({self.in_row} in a row)")
        self.keep(Nonfinite(self.spec, self.step, self.epoch, trouble, skipped=True))

    def look_back(self, step: int) -> int:
        """The batch of the first kept loss that is not finite, on a GPU; else `step`."""
        if self.losses is None:
            return step
        bad = ~torch.isfinite(self.losses)
        steps = [step - back for back in reversed(range(min(RECENT, step)))]
        return next((each for each in steps if bad[each % RECENT]), step)

    def diverged_error(self, trouble: NonfiniteValue, more: str = "") -> DivergedError:
        """The error that ends the run; the batch's samples are kept first, so that its remedy can name them."""
        kept = self.keep(Nonfinite(self.spec, self.step, self.epoch, trouble, skipped=False))
        again = f"`ffdist train --replay RUN`, or ffdist.replay(RUN), learns it again, by itself: {kept} names its "
        again = f"{again}samples; " if kept else ""
        many = trouble.what == "gradients"
        return DivergedError(
            f"the {trouble.what} {'are not finite numbers' if many else 'is not a finite number'}{more}",
            where=f"{self.spec}, batch {self.step}, epoch {self.epoch + 1}",
            expected="finite numbers",
            got=trouble.value,
            remedy=f"{again}lower {setting('optim.lr')}, look for broken samples in the data, or "
            f"{setting('training.on_nan', 'skip')}",
        )


def is_finite(tensor: Tensor) -> bool:
    """True if all are finite: by their sum in the tensor's own type (in another one torch would first copy it); where
    that is not, by the least and the greatest number. A pass over the memory each, in its order, which is many times
    quicker."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    values = tensor.detach()
    values = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    if math.isfinite(float(values.sum())):
        return True
    low, high = map(float, torch.aminmax(values))
    return math.isfinite(low) and math.isfinite(high)


def first_bad(tensor: Tensor) -> float:
    """The first value that is NaN or infinite."""
    flat = tensor.detach().flatten()
    return float(flat[~torch.isfinite(flat)][0])
