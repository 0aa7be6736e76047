"""A block's learning rate over the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ffdist.errors import ConfigError, setting
from ffdist.settings import SchedulerSettings

RISE = 0.3
"""Share of the run over which one-cycle and triangular rise where no warm-up is given, as in torch's OneCycleLR."""


def build_lr_scheduler(
    config: SchedulerSettings, optimizer: torch.optim.Optimizer, total_steps: int, epochs: int
) -> LRScheduler | ReduceLROnPlateau:
    """A block's schedule, stepped once a batch; by "plateau" once an epoch, with the block's own validation loss.

    total_steps: batches of the whole run.
    """
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
    return LambdaLR(optimizer, rate_by_step(config, total_steps, epochs))


def rate_by_step(config: SchedulerSettings, total_steps: int, epochs: int) -> Callable[[int], float]:
    """A function from the number of batches learned to the rate, as a share of its height."""
    an_epoch = total_steps / epochs
    rise = rise_of(config, total_steps, epochs)
    falls = [round(milestone * an_epoch) for milestone in config.milestones]

    def at(step: int) -> float:
        if step < rise:
            if config.schedule == "one-cycle":
                return between(config.start, 1, (step + 1) / rise, smooth=True)
            return config.start + (1 - config.start) * (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, total_steps - rise))
        match config.schedule:
            case "cosine" | "one-cycle":
                return between(1, config.end, done, smooth=True)
            case "linear" | "triangular":
                return between(1, config.end, done, smooth=False)
            case "linear-late":
                return min(1.0, 2 * (1 - done))
            case "milestones":
                return config.factor ** sum(step >= fall for fall in falls)
            case _:
                return 1.0

    return at


def between(first: float, last: float, done: float, *, smooth: bool) -> float:
    """Interpolate between both, `done` of the way: straight, or by half a cosine."""
    left = 0.5 * (1 + math.cos(math.pi * done)) if smooth else 1 - done
    return last + (first - last) * left


def rise_of(config: SchedulerSettings, total_steps: int, epochs: int) -> int:
    """Batches of the warm-up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_epochs is not None:
        return round(config.warmup_epochs * total_steps / epochs)
    share = config.warmup or (RISE if config.schedule in ("one-cycle", "triangular") else 0.0)
    return round(share * total_steps)


def check_rise(config: SchedulerSettings, total_steps: int, epochs: int) -> None:
    """Raises ConfigError for a warm-up that ends with the run, or after it."""
    rise = rise_of(config, total_steps, epochs)
    if config.warmups and rise >= total_steps:
        (name,) = config.warmups
        raise ConfigError(
            "the warm-up is as long as the run",
            where=setting(f"scheduler.{name}"),
            expected=f"less than the run's {total_steps:,} batches",
            got=f"{rise:,} batches",
            remedy=f"a shorter one, or more {setting('training.epochs')}",
        )
