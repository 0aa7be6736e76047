"""A moving average of a block's weights, which evaluates in their place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

RAMP = 10
"""Updates until the decay is a half, where `decay` is no less."""


class WeightAverage:
    """avg <- d avg + (1 - d) w after the block's n-th update, with d = min(decay, n / (RAMP + n)).

    Polyak's averaging (1992) with exponential weights; the ramp, of TensorFlow's `ExponentialMovingAverage`, keeps the
    first weights from lingering. Floating-point buffers (running means and variances) are averaged alike, as in
    torchvision's reference training, since the newest would describe the activations of other weights; counts are
    taken over.
    """

    def __init__(self, parts: nn.ModuleDict, decay: float) -> None:
        self.parts = copy.deepcopy(parts)
        """The averaged twin of the block's module and head, in evaluation mode for good."""
        self.parts.requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, parts: nn.Module) -> None:
        """Take the block's weights in, as they are after an update."""
        keep = min(self.decay, self.updates / (RAMP + self.updates))
        self.updates += 1
        for average, value in zip(each_once(self.parts), each_once(parts), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:
                average.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors themselves, by their names in the block; no copies."""
        return {name: value.detach() for name, value in self.parts.state_dict().items()}

    def load_state(self, tensors: dict[str, Tensor], updates: int) -> None:
        """The inverse of `state`, and how many updates it has seen."""
        self.parts.load_state_dict(tensors)
        self.updates = updates


def each_once(module: nn.Module) -> list[Tensor]:
    """The tensors of its state, tied weights once."""
    return list({id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}.values())
