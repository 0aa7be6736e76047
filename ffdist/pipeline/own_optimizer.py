"""An optimiser of a class that a user names: torch's, a library's, or their own."""

from __future__ import annotations

import inspect
import json
from typing import Any

import torch

from ffdist.errors import ConfigError, setting, users_code
from ffdist.options import find, pairs, typed
from ffdist.settings import OptimSettings

GIVEN = ("lr", "weight_decay")
"""Options that are settings of their own."""


def own_optimizer(config: OptimSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a class that the settings name, with their options for it, lr, and weight_decay if it takes one.

    groups: of parameters, as optimisers take them.

    Raises ConfigError for what is no `torch.optim.Optimizer`, and for options that it does not take.
    """
    where = f"optimiser {config.optimizer}"
    kind = find(config.optimizer, {}, "optimiser")
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError(
            f"'{config.optimizer}' is not an optimiser",
            where=where,
            expected="a subclass of torch.optim.Optimizer",
            got=kind,
        )
    options = pairs(config.optimizer_args, setting("optim.optimizer_args"))
    for name in GIVEN:
        if name in options:
            raise ConfigError(
                f"'{name}' is a setting of its own",
                where=setting("optim.optimizer_args"),
                remedy=setting(f"optim.{name}", options[name]),
            )
    made = typed(kind, options, where, skip=1)
    made |= {name: getattr(config, name) for name in GIVEN if name in inspect.signature(kind).parameters}
    with users_code(
        ConfigError,
        "the optimiser cannot be made",
        where=where,
        expected=f"{kind.__name__}(parameters, lr=...)",
        remedy=setting("optim.optimizer", "muon") + ", which has sgd or adamw for all else"
        if kind.__name__ == "Muon"
        else f"set its options: {setting('optim.optimizer_args', 'NAME=VALUE')}",
    ):
        return kind(groups, **made)


def check_own_optimizer(config: OptimSettings) -> None:
    """Take three steps on numbers of our own, saved and loaded as in a snapshot after two of them.

    Raises ConfigError for an optimiser that cannot be made, that fails, or that does not go on as if never interrupted:
    one that draws random numbers, say.
    """
    where = f"optimiser {config.optimizer}"
    with users_code(
        ConfigError,
        "the optimiser fails",
        where=where,
        expected="a step by the gradients alone, and a state of tensors and numbers",
        remedy=f"correct it, or take another: {setting('optim.optimizer', 'torch.optim:NAdam')}",
    ):
        first, weights = trial(config)
        for step in range(2):
            advance(first, weights, step)
        again, others = trial(config)
        with torch.no_grad():
            for mine, other in zip(weights, others, strict=True):
                other.copy_(mine)
        again.load_state_dict(saved_state(first))
        advance(first, weights, 2)
        torch.rand(1)  # what it draws would be others now
        advance(again, others, 2)
    if not all(map(torch.equal, weights, others)):
        raise ConfigError(
            "the optimiser does not go on from a snapshot as it would have gone on",
            where=where,
            expected="the same step from the same state and gradients",
            got="another: it has a state that it does not save, or draws random numbers",
            remedy="keep what it needs in self.state or its groups",
        )


def trial(config: OptimSettings) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    """The optimiser with weights of its own, always the same: a matrix, filters and a bias."""
    numbers = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=numbers)) for shape in ((4, 3), (4, 3, 3, 3), (4,))]
    return own_optimizer(config, [{"params": weights}]), [*weights]


def advance(optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], step: int) -> None:
    """One step, by gradients that depend on its number alone."""
    numbers = torch.Generator().manual_seed(1 + step)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=numbers)
    optimizer.step()
    optimizer.zero_grad()


def saved_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state as a snapshot gives it back: tensors, and what JSON holds."""
    saved = optimizer.state_dict()
    state = {
        index: {name: torch.as_tensor(value).clone() for name, value in slots.items() if value is not None}
        for index, slots in saved["state"].items()
    }
    return {"state": state, "param_groups": json.loads(json.dumps(saved["param_groups"]))}
