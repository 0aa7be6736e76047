"""torch's fused optimisers without what their Python does anew in every step.

Their kernels take a block's parameters in one call, which is a tenth of a small block's step: the rest is a search for
what may differ between parameters. Here each step calls the same kernel with the same arguments, wherever that is all
there is to it, and torch's own step otherwise: the first one, which makes the moments, float16's scale, parameters of
several types or devices, sparse gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffdist.pipeline.tensor_bytes import before_step

Group = dict[str, Any]


class FusedGroup(NamedTuple):
    """The parameters of a group that have a gradient."""

    params: list[Tensor]
    grads: list[Tensor]
    slots: dict[str, list[Tensor]]
    """What the optimiser keeps of each, by its name."""


def fused_group(optimizer: torch.optim.Optimizer, group: Group, kept: Sequence[str]) -> FusedGroup | None:
    """The group that a fused step takes; None where torch's own step is wanted. kept: the names of what must be there
    of each parameter."""
    params = [parameter for parameter in group["params"] if parameter.grad is not None]
    grads = [parameter.grad for parameter in params]
    held = [optimizer.state.get(parameter, {}) for parameter in params]
    try:
        slots = {name: [each[name] for each in held] for name in kept}
    except KeyError:  # the first step
        return None
    alike = len({parameter.dtype for parameter in params}) < 2 and len({grad.device for grad in grads}) < 2
    dense = all(grad.layout is torch.strided for grad in grads)
    return FusedGroup(params, grads, slots) if alike and dense and isinstance(group["lr"], float) else None


def fused_groups(optimizer: torch.optim.Optimizer, kept: Sequence[str]) -> list[tuple[Group, FusedGroup]] | None:
    """Each group that has something to learn from; None where torch's own step is wanted."""
    if getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None:
        return None
    groups: list[tuple[Group, FusedGroup]] = []
    for group in optimizer.param_groups:
        if (found := fused_group(optimizer, group, kept)) is None:
            return None
        if found.params:
            groups.append((group, found))
    return groups


def adam_step(optimizer: torch.optim.Optimizer, kernel: Callable[..., None]) -> bool:
    """Takes a step by one fused kernel, where that can; True if it was taken. kernel: of Adam, or of AdamW."""
    groups = fused_groups(optimizer, ("step", "exp_avg", "exp_avg_sq"))
    if groups is None or any(group["amsgrad"] for group, _ in groups):
        return False
    for group, (params, grads, slots) in groups:
        torch._foreach_add_(slots["step"], 1)
        kernel(
            params,
            grads,
            slots["exp_avg"],
            slots["exp_avg_sq"],
            [],
            slots["step"],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )
    return True


def adam(optimizer: torch.optim.Optimizer) -> bool:
    """`adam_step` of Adam: its weight decay adds to the gradient."""
    return adam_step(optimizer, torch._fused_adam_)


def adamw(optimizer: torch.optim.Optimizer) -> bool:
    """`adam_step` of AdamW: its weight decay shrinks the weights."""
    return adam_step(optimizer, torch._fused_adamw_)


def sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Takes a step by one fused kernel, where that can; True if it was taken."""
    momentum = optimizer.param_groups[0]["momentum"]
    groups = fused_groups(optimizer, ("momentum_buffer",) if momentum else ())
    if groups is None or any(group["momentum"] != momentum for group, _ in groups):
        return False
    for group, (params, grads, slots) in groups:
        torch._fused_sgd_(
            params,
            grads,
            slots.get("momentum_buffer", []),
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
        )
    return True


def with_fused_step(kind: type[torch.optim.Optimizer], quick: Callable[[torch.optim.Optimizer], bool]) -> type[Any]:
    """torch's optimiser with its quick step.

    Without torch's hooks, and without what its methods do for torch.compile: at their first call they import
    torch._dynamo, which takes each process a second and 150 MiB, and nothing here compiles a step.
    """
    names = ("add_param_group", "state_dict", "load_state_dict")
    whole, with_zeros = inspect.unwrap(kind.step), inspect.unwrap(kind.zero_grad)

    @torch.no_grad()
    def step(self: torch.optim.Optimizer) -> None:
        before_step(self)
        if not quick(self):
            whole(self)

    def zero_grad(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        if not set_to_none:
            with_zeros(self, set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]  # else torch puts its profiler's mark around it
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": step, "zero_grad": zero_grad})
