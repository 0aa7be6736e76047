"""How one block is optimised: its own optimiser, its own schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ffdist.errors import ConfigError
from ffdist.pipeline.muon import FilterMuon, Together


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Settings of every block's optimiser and schedule."""

    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    """muon: for filters, and for matrices outside of heads and classifiers; sgd for the rest."""
    lr: float = 2e-3
    weight_decay: float = 1e-5
    momentum: float = 0.9
    muon_momentum: float = 0.95
    """Momentum of muon; `momentum` is that of sgd, beside it too."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and muon."""
    bias_lr: float | None = None
    """Rate of biases, and of scales and shifts of norms. None: `lr`."""
    head_lr: float | None = None
    """Rate of what a rule adds beside the block, and of a twin's classifier; with muon, of their linear layers. None:
    `lr`."""
    unit_filters: bool = False
    """muon: before each step, scale each filter and matrix to the norm sqrt(outputs); for layers with a norm behind."""
    ns_steps: int = 5
    """muon: steps of Newton and Schulz's iteration."""
    schedule: Literal["constant", "cosine", "linear", "linear-late", "plateau"] = "cosine"
    warmup: float = 0.0
    """Share of all steps over which the learning rate rises linearly from `start`."""
    start: float = 0.0
    """Where a warm-up begins, as a share of the learning rate."""
    end: float = 0.0
    """Where cosine and linear schedules end, as a share of the learning rate."""
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
            raise ConfigError("these are no windows of epochs", where="--windows", got=self.windows,
                              expected="0 <= start < end, in epochs done before: 0:11 are epochs 1 to 11")  # fmt: skip

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
    "muon_momentum": (lambda x: 0 <= x < 1, "0 <= x < 1"),
    "warmup": (lambda x: 0 <= x < 1, "a share of the run, 0 <= x < 1"),
    "patience": (lambda x: x >= 0, ">= 0 epochs"),
    "factor": (lambda x: 0 < x < 1, "0 < x < 1"),
    "ns_steps": (lambda x: 1 <= x < 100, "1 to 99 steps"),
    "start": (lambda x: 0 <= x <= 1, "a share of the learning rate, 0 <= x <= 1"),
    "end": (lambda x: 0 <= x <= 1, "a share of the learning rate, 0 <= x <= 1"),
    "bias_lr": (lambda x: 0 < x < math.inf, "> 0"),
    "head_lr": (lambda x: 0 < x < math.inf, "> 0"),
    "clip": (lambda x: 0 < x < math.inf, "> 0"),
    "ema": (lambda x: 0 <= x < 1, "0 <= x < 1"),
}
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def decay_groups(module: nn.Module, no_decay: Collection[str]) -> list[dict[str, Any]]:
    """The learned parameters as an optimiser takes them, those that decay before those that are spared.

    "bias": whatever is called so, of norms too; "norm": scale and shift of norms.
    """
    return in_groups(module, OptimConfig(no_decay=tuple(no_decay)))  # pyright: ignore[reportArgumentType]


def in_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The learned parameters in groups of one rate and one decay; "kind" says of what kind they are.

    The kinds: "filter" (only with muon), "head", "bias" (norms', too) and "other"; each kind's that decay come first.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (kind, spared): [] for kind in ("other", "filter", "head", "bias") for spared in (False, True)
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            owner, _, own_name = name.rpartition(".")
            norm = isinstance(module.get_submodule(owner), NORMS)
            bias = own_name.endswith("bias")
            spared = ("norm" in config.no_decay and norm) or ("bias" in config.no_decay and bias)
            groups[kind_of(name, parameter, config, small=norm or bias), spared].append(parameter)
    rates = {"bias": config.bias_lr, "head": config.head_lr}
    return [
        {"params": of, "kind": kind}
        | ({"weight_decay": 0.0} if spared else {})
        | ({"lr": rate} if (rate := rates.get(kind)) else {})
        for (kind, spared), of in groups.items()
        if of
    ]


def kind_of(name: str, parameter: nn.Parameter, config: OptimConfig, *, small: bool) -> str:
    """The kind of a parameter, where it has a rate or an optimiser of its own; else "other"."""
    beside = not {"head", "classifier"}.isdisjoint(name.split(".")[:2])
    if config.optimizer == "muon" and (parameter.dim() == 4 or (parameter.dim() == 2 and not beside)):
        return "filter"
    if small and config.bias_lr:
        return "bias"
    return "head" if beside and config.head_lr else "other"


def uncompiled(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """torch's optimiser without what its methods do for torch.compile: at their first call they import torch._dynamo,
    which takes each process a second and 150 MiB, and nothing here compiles a step."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    step = inspect.unwrap(kind.step)

    def step_without_grad(self: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            step(self)

    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": step_without_grad})


ADAMW, ADAM, SGD = map(uncompiled, (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD))


def build_optimizer(config: OptimConfig, module: nn.Module) -> torch.optim.Optimizer | None:
    """The block's optimiser, fused; None for a block with nothing to learn."""
    learned = [{k: v for k, v in group.items() if k != "kind"} for group in in_groups(module, config)]
    if not learned:
        return None
    match config.optimizer:
        case "adamw":
            return ADAMW(learned, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "adam":
            return ADAM(learned, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "sgd":
            return sgd(config, learned)
        case "muon":
            return muon(config, in_groups(module, config))


def sgd(config: OptimConfig, learned: list[dict[str, Any]]) -> torch.optim.SGD:
    return SGD(
        learned,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,
    )


def muon(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Muon for filters and matrices, SGD beside it for the rest."""
    kinds = [group.pop("kind") for group in groups]
    filters = [group for group, kind in zip(groups, kinds, strict=True) if kind == "filter"]
    rest = [group for group, kind in zip(groups, kinds, strict=True) if kind != "filter"]
    parts: list[torch.optim.Optimizer] = []
    if filters:
        parts.append(
            FilterMuon(
                filters,
                lr=config.lr,
                momentum=config.muon_momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
                steps=config.ns_steps,
                unit=config.unit_filters,
            )
        )
    if rest:
        parts.append(sgd(config, rest))
    return Together(parts)


def build_schedule(
    config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> LRScheduler | ReduceLROnPlateau:
    """Cosine and the linear ones fall over `total_steps` batches; plateau follows the block's own validation loss."""
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
    warmup_steps = round(config.warmup * total_steps)

    def scale(step: int) -> float:
        if step < warmup_steps:
            return config.start + (1 - config.start) * (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        match config.schedule:
            case "cosine":
                return config.end + (1 - config.end) * 0.5 * (1 + math.cos(math.pi * done))
            case "linear":
                return config.end + (1 - config.end) * (1 - done)
            case "linear-late":
                return min(1.0, 2 * (1 - done))
            case _:
                return 1.0

    return LambdaLR(optimizer, scale)
