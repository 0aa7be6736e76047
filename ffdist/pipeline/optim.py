"""The optimiser of one block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ffdist.pipeline import fused
from ffdist.pipeline.muon import CombinedOptimizer, FilterMuon
from ffdist.pipeline.own_optimizer import own_optimizer
from ffdist.settings import OptimSettings, Settings

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def in_groups(module: nn.Module, config: OptimSettings) -> list[dict[str, Any]]:
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
        {"params": parameters, "kind": kind}
        | ({"weight_decay": 0.0} if spared else {})
        | ({"lr": rate} if (rate := rates.get(kind)) else {})
        for (kind, spared), parameters in groups.items()
        if parameters
    ]


def kind_of(name: str, parameter: nn.Parameter, config: OptimSettings, *, small: bool) -> str:
    """The kind of a parameter, where it has a rate or an optimiser of its own; else "other"."""
    in_head = not {"head", "classifier"}.isdisjoint(name.split(".")[:2])
    if config.optimizer == "muon" and (parameter.dim() == 4 or (parameter.dim() == 2 and not in_head)):
        return "filter"
    if small and config.bias_lr:
        return "bias"
    return "head" if in_head and config.head_lr else "other"


def is_elementwise(settings: Settings) -> bool:
    """True if an update of one number depends on that number's gradient and moments alone: then a slice of a block can
    be updated by itself. Clipping takes the block's whole norm, float16 skips a step for any one infinity."""
    optim = settings.optim
    known = optim.optimizer in ("adamw", "adam", "sgd")
    return known and optim.clip is None and settings.compute.precision != "fp16"


ADAMW = fused.with_fused_step(torch.optim.AdamW, fused.adamw)
ADAM = fused.with_fused_step(torch.optim.Adam, fused.adam)
SGD = fused.with_fused_step(torch.optim.SGD, fused.sgd)


def build_optimizer(config: OptimSettings, module: nn.Module) -> torch.optim.Optimizer | None:
    """The block's optimiser, torch's own ones fused; None for a block with nothing to learn. Raises ConfigError for a
    user's class that is no optimiser, or cannot be made."""
    learned = [{k: v for k, v in group.items() if k != "kind"} for group in in_groups(module, config)]
    if not learned:
        return None
    match config.optimizer:
        case "adamw":
            return ADAMW(learned, **adam_arguments(config))
        case "adam":
            return ADAM(learned, **adam_arguments(config))
        case "sgd":
            return sgd(config, learned)
        case "muon":
            return muon(config, in_groups(module, config))
        case _:
            return own_optimizer(config, learned)


def adam_arguments(config: OptimSettings) -> dict[str, Any]:
    """The arguments of both forms of Adam."""
    return {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
        "fused": True,
    }


def sgd(config: OptimSettings, learned: list[dict[str, Any]]) -> torch.optim.SGD:
    """SGD by these settings. learned: groups of parameters, as optimisers take them."""
    return SGD(
        learned,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,
    )


def muon(config: OptimSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Muon for filters and matrices, SGD or AdamW beside it for the rest."""
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
        parts.append(ADAMW(rest, **adam_arguments(config)) if config.muon_rest == "adamw" else sgd(config, rest))
    return CombinedOptimizer(parts)
