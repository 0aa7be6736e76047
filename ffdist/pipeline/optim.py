"""How one block is optimised: its own optimiser, its own schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ffdist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Settings of every block's optimiser and schedule."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-5
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "linear-late", "plateau"] = "cosine"
    warmup: float = 0.0
    """Share of all steps over which the learning rate rises linearly from 0."""
    patience: int = 10
    """plateau: epochs without a lower validation loss of this block before its learning rate falls."""
    factor: float = 0.1
    """plateau: what the learning rate is multiplied by then."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ConfigError("the learning rate is not positive", where="--lr", expected="> 0", got=self.lr)
        if self.weight_decay < 0:
            raise ConfigError("negative weight decay", where="--weight-decay", expected=">= 0", got=self.weight_decay)
        if not 0 <= self.warmup < 1:
            raise ConfigError("warm-up is a share of the run", where="--warmup", expected="0 <= x < 1", got=self.warmup)


def build_optimizer(config: OptimConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
    """The block's optimiser, fused; None for a block with nothing to learn."""
    learned = [p for p in parameters if p.requires_grad]
    if not learned:
        return None
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(learned, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "adam":
            return torch.optim.Adam(learned, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                learned, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
            )


def build_schedule(
    config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> LRScheduler | ReduceLROnPlateau:
    """Cosine and linear-late fall over `total_steps` batches; plateau follows the block's own validation loss."""
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
    warmup_steps = round(config.warmup * total_steps)

    def scale(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        match config.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * done))
            case "linear-late":
                return min(1.0, 2 * (1 - done))
            case _:
                return 1.0

    return LambdaLR(optimizer, scale)
