"""How one block is optimised: its own optimiser, its own schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

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
    clip: float | None = None
    """The largest norm of a block's gradient; a larger one is scaled down to it."""
    no_decay: tuple[Literal["bias", "norm"], ...] = ()
    """What weight decay spares; by default nothing, as in the papers and their authors' code."""
    ema: float | None = None
    """Decay of a moving average of the weights (see `Average`), which then evaluates in their place."""
    windows: tuple[tuple[int, int], ...] = ()
    """Each block's first epoch of learning, and the one it no longer learns in; empty: all learn in all."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ConfigError("the learning rate is not positive", where="--lr", expected="> 0", got=self.lr)
        for name, (fits, expected) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise ConfigError(f"--{name.replace('_', '-')} is out of range", expected=expected, got=value)
        if self.schedule == "plateau" and self.warmup:
            raise ConfigError("a learning rate that follows a plateau has no warm-up", where="--warmup", expected=0,
                              got=self.warmup, remedy="take another --schedule, or leave --warmup out")  # fmt: skip
        if any(not 0 <= start < end for start, end in self.windows):
            raise ConfigError("these are no windows of epochs", where="--windows", expected="0 <= start < end",
                              got=self.windows)  # fmt: skip

    def learns(self, index: int, epoch: int) -> bool:
        """Whether block `index` learns in this epoch (from 0); what stands behind all the windows' blocks does."""
        if index >= len(self.windows):
            return True
        start, end = self.windows[index]
        return start <= epoch < end

    def check_windows(self, blocks: int) -> None:
        """Raises ConfigError unless there is a window for each of the network's blocks, or none at all."""
        if self.windows and len(self.windows) != blocks:
            raise ConfigError("each block has a window of epochs", where="--windows", expected=f"{blocks} windows",
                              got=len(self.windows))  # fmt: skip


LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "weight_decay": (lambda x: 0 <= x < math.inf, ">= 0"),
    "momentum": (lambda x: 0 <= x < 1, "0 <= x < 1"),
    "warmup": (lambda x: 0 <= x < 1, "a share of the run, 0 <= x < 1"),
    "patience": (lambda x: x >= 0, ">= 0 epochs"),
    "factor": (lambda x: 0 < x < 1, "0 < x < 1"),
    "clip": (lambda x: 0 < x < math.inf, "> 0"),
    "ema": (lambda x: 0 <= x < 1, "0 <= x < 1"),
}
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def decay_groups(module: nn.Module, no_decay: Collection[str]) -> list[dict[str, Any]]:
    """The learned parameters as an optimiser takes them, those that decay before those that are spared.

    "bias": whatever is called so, of norms too; "norm": scale and shift of norms.
    """
    decayed, spared = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            owner, _, own_name = name.rpartition(".")
            is_norm = isinstance(module.get_submodule(owner), NORMS)
            spare = ("norm" in no_decay and is_norm) or ("bias" in no_decay and own_name.endswith("bias"))
            (spared if spare else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(config: OptimConfig, module: nn.Module) -> torch.optim.Optimizer | None:
    """The block's optimiser, fused; None for a block with nothing to learn."""
    learned = decay_groups(module, config.no_decay)
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
