"""A way around a crash of older torches in group normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SOUND = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""torch 2.6 crashes on a CPU where the input of a group norm is channels-last and needs no gradient, as a block's own
input does not; 2.13 does not crash. Versions between get the same help, which changes no gradient of a weight."""


def ask_for_gradients(module: nn.Module) -> None:
    """Make the inputs of the module's group norms require a gradient from now on, wherever their weights do."""
    if SOUND:
        return
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.register_forward_pre_hook(_requiring_gradient)


def _requiring_gradient(norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = args
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in norm.parameters())
    if learns and isinstance(x, Tensor) and not x.requires_grad:
        x = x.detach().requires_grad_()
    return (x, *others)
