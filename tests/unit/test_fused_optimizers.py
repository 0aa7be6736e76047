"""Optimisers whose Python is left out take torch's own steps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffdist.pipeline import fused

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, fused.with_fused_step(torch.optim.Adam, fused.adam), {}),
    "adamw": (torch.optim.AdamW, fused.with_fused_step(torch.optim.AdamW, fused.adamw), {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, fused.with_fused_step(torch.optim.SGD, fused.sgd), {"momentum": 0.9, "nesterov": True}),
    "plain sgd": (torch.optim.SGD, fused.with_fused_step(torch.optim.SGD, fused.sgd), {}),
    "maximised": (
        torch.optim.SGD,
        fused.with_fused_step(torch.optim.SGD, fused.sgd),
        {"maximize": True, "momentum": 0.5},
    ),
    "amsgrad": (torch.optim.AdamW, fused.with_fused_step(torch.optim.AdamW, fused.adamw), {"amsgrad": True}),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 7).to(dtype))


def groups(module: nn.Module) -> list[dict[str, Any]]:
    weights = [p for p in module.parameters() if p.dim() > 1]
    return [{"params": weights}, {"params": [p for p in module.parameters() if p.dim() == 1], "lr": 0.02}]


def give_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(module.parameters()):
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.grad = None if step and (step + number) % 4 == 3 else drawn


def held(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    slots = [value for p in module.parameters() for _, value in sorted(optimizer.state.get(p, {}).items())]
    return [*module.parameters(), *(value for value in slots if isinstance(value, Tensor))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KINDS)
def test_a_lean_optimiser_takes_torchs_own_steps_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    theirs, ours, options = KINDS[name]
    one = network(dtype)  # of two types, in the second case: then torch's own step is taken
    other = deepcopy(one)
    pairs = [(one, theirs(groups(one), lr=0.1, fused=True, **options))]
    pairs.append((other, ours(groups(other), lr=0.1, fused=True, **options)))
    for step in range(7):
        for module, optimizer in pairs:
            give_gradients(module, step)
            if step == 4:  # as a resumed run, and as a schedule does
                optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
                optimizer.param_groups[0]["lr"] = 0.05
            optimizer.step()
            optimizer.zero_grad()
            assert all(parameter.grad is None for parameter in module.parameters())
    expected, got = (held(*pair) for pair in pairs)
    assert len(expected) == len(got)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_from_the_second_step_on_the_kernel_alone_is_called() -> None:
    module = network()
    optimizer = KINDS["adamw"][1](groups(module), lr=0.1, fused=True)
    give_gradients(module, 0)
    assert not fused.adamw(optimizer)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert fused.adamw(optimizer)


def test_gradients_are_let_go_or_set_to_zero_as_torch_does() -> None:
    module = network()
    optimizer = KINDS["sgd"][1](groups(module), lr=0.1, fused=True)
    give_gradients(module, 0)
    held = [parameter.grad for parameter in module.parameters()]
    optimizer.zero_grad(set_to_none=False)
    assert all(parameter.grad is gradient for parameter, gradient in zip(module.parameters(), held, strict=True))
    assert all(gradient is not None and not gradient.any() for gradient in held)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in module.parameters())
