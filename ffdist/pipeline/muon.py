"""Muon for a block's matrices and filters, beside another optimiser for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FilterMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` (Jordan et al., 2024) on matrices, and on filters [O, I, H, W] as matrices [O, I * H * W].

    unit: first scale each to the norm sqrt(O), as the fast CIFAR-10 recipes do [airbench]; for layers with a norm
        after them, whose outputs do not depend on the scale.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        steps: int = 5,
        unit: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.unit = unit
        self.matrices = {p: nn.Parameter(as_matrix(p.detach())) for group in self.param_groups for p in group["params"]}
        """Each parameter's own memory as a matrix: what torch's Muon updates."""
        groups = [{"params": [self.matrices[p] for p in group["params"]]} for group in self.param_groups]
        self.muon = torch.optim.Muon(groups, momentum=momentum, nesterov=nesterov, ns_steps=steps)
        for parameter, matrix in self.matrices.items():
            self.state[parameter] = {"momentum_buffer": torch.zeros_like(matrix)}
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None
        for group, inner in zip(self.param_groups, self.muon.param_groups, strict=True):
            inner["lr"], inner["weight_decay"] = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                matrix = self.matrices[parameter]
                matrix.grad = None if parameter.grad is None else as_matrix(parameter.grad, like=parameter)
                if self.unit and matrix.grad is not None:
                    matrix.mul_(math.sqrt(len(matrix)) / matrix.norm().clamp(min=1e-12))
        self.muon.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share_state()

    def _share_state(self) -> None:
        """Both optimisers keep one dictionary a parameter: this one's is saved, the inner one's is updated."""
        for parameter, matrix in self.matrices.items():
            self.muon.state[matrix] = self.state[parameter]


def as_matrix(value: Tensor, like: Tensor | None = None) -> Tensor:
    """[O, ...] -> [O, N] over the same memory where `value` is laid out as `like` (by default, itself)."""
    if value.dim() == 4 and (value if like is None else like).is_contiguous(memory_format=torch.channels_last):
        return value.permute(0, 2, 3, 1).reshape(len(value), -1)
    return value.reshape(len(value), -1)


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers, each for parameters of its own, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state as one optimiser's: parameters are numbered through all the parts."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        first = 0
        for part in self.parts:
            saved = part.state_dict()
            state |= {first + index: slots for index, slots in saved["state"].items()}
            groups += [
                group | {"params": [first + index for index in group["params"]]} for group in saved["param_groups"]
            ]
            first += sum(len(group["params"]) for group in part.param_groups)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`: each part gets its own parameters, numbered from 0 again."""
        first, groups = 0, iter(state_dict["param_groups"])
        for part in self.parts:
            count = sum(len(group["params"]) for group in part.param_groups)
            own = [next(groups) for _ in part.param_groups]
            own = [group | {"params": [index - first for index in group["params"]]} for group in own]
            slots = {i - first: s for i, s in state_dict["state"].items() if first <= i < first + count}
            part.load_state_dict({"state": slots, "param_groups": own})
            first += count
        self._share_groups()

    def _share_groups(self) -> None:
        """Schedules set the rates in `param_groups`: they must be the parts' own."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
