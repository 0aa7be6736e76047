"""The arithmetic of a block: float32, or autocast to a shorter type; in float16 each block scales its gradients."""

from __future__ import annotations

import time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ffdist.device import queues, synchronize
from ffdist.errors import setting

Precision = Literal["fp32", "bf16", "fp16"]
SHORT: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
SLOW = 2.0
"""Times as long as in float32, from which on a short type is said to be slow: it is meant to be faster."""
MIN_SCALE = 2.0**-10
"""A scale to which only a block comes that overflows batch after batch, some 26 of them: it learns no more."""


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of activations on their way to the next block."""
    return SHORT.get(precision, torch.float32)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """torch's autocast to the shorter type, off for "fp32". Within it, products are short, and what would lose by that
    (sums, norms, losses) stays in float32."""
    short = SHORT.get(precision)
    return torch.autocast(device.type, short or torch.bfloat16, enabled=short is not None)


def slowdown(device: torch.device, precision: Precision) -> float:
    """The time of a product of matrices as a multiple of that in float32, measured on the device: a processor without
    instructions for a short type computes it many times slower, where others are faster than in float32."""
    return _seconds_of_product(device, dtype_of(precision)) / _seconds_of_product(device, torch.float32)


def slow_precision_note(device: torch.device, precision: Precision) -> str | None:
    """The note on a precision in which this device computes slower than in float32."""
    if precision == "fp32" or (times := slowdown(device, precision)) < SLOW:
        return None
    processor = "CPU" if device.type == "cpu" else device.type
    return (
        f"{precision} is slow on this {processor}: a product of matrices takes {times:.0f} times "
        f"as long as in float32, measured now; {setting('compute.precision', 'fp32')} is faster here"
    )


def _seconds_of_product(device: torch.device, dtype: torch.dtype) -> float:
    """The shorter of two, after a small one that sets the libraries up."""
    size = 2048 if queues(device) else 256
    clock = time.perf_counter if queues(device) else time.thread_time  # other work of the machine does not count
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    torch.mm(matrix[:16, :16], matrix[:16, :16])
    found = []
    for _ in range(2):
        synchronize(device)
        began = clock()
        torch.mm(matrix, matrix)
        synchronize(device)
        found.append(clock() - began)
    return max(min(found), 1e-9)


class LossScale:
    """A scale that keeps one block's gradients above float16's least numbers: its loss is multiplied by a scale, and
    they are divided by it before the step (dynamic loss scaling, Micikevicius et al., ICLR 2018).

    A batch whose gradients are not finite takes no step, and halves the scale; 2000 good ones in a row double it. Where
    it was the forward pass that overflowed, running statistics of norms stay as they were.
    """

    def __init__(self, device: torch.device, optimizer: torch.optim.Optimizer) -> None:
        self.scaler = torch.amp.GradScaler(device.type)
        self.optimizer = optimizer
        self.before: list[tuple[Tensor, Tensor]] = []
        """Running statistics, and what they were before the batch."""
        if isinstance(optimizer, torch.optim.SGD):
            # its fused step would begin its momentum with whatever lies in memory, where the first one is left out
            optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]

    def remember(self, module: nn.Module) -> None:
        """Keep the running statistics as they are before a forward pass, for `mend`."""
        self.before = [(buffer, buffer.clone()) for buffer in module.buffers() if buffer.is_floating_point()]

    @torch.no_grad()
    def mend(self) -> None:
        """Called after the backward pass, which may read them: what is not finite is again what it was."""
        for buffer, before in self.before:
            buffer.copy_(torch.where(buffer.isfinite(), buffer, before))
        self.before = []

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss as it is to be backpropagated."""
        return self.scaler.scale(loss)

    def unscale(self) -> None:
        """Divide the gradients by the scale, to be called before they are clipped."""
        # a norm of scaled gradients would be clipped by a limit meant for the true ones
        self.scaler.unscale_(self.optimizer)

    def step(self) -> None:
        """Take the optimiser's step, unless a gradient is not finite; raise or lower the scale."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # schedules count batches here; torch's warn of one without a step before it
        self.optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def value(self) -> float:
        """The scale now; a GPU is waited for."""
        return self.scaler.get_scale()

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs, JSON-able."""
        return self.scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.scaler.load_state_dict(state)
