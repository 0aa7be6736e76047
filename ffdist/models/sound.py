"""Check what a block is made of: parameters that are there, in float32, of a module that is no wrapper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ffdist.errors import NetworkError, setting

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Modules that hold the user's own, and where: they place or compile it themselves."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where torch keeps the functions that were hung on a module."""


def check_sound(name: str, module: nn.Module) -> None:
    """Raises NetworkError for a block whose weights have no size yet, are not float32, or are another's to place."""
    where = f"block '{name}'"
    for path, part in module.named_modules():
        check_layer(part, f"{where}, {path or 'the whole'}")
    for path, parameter in module.named_parameters():
        check_parameter(parameter, f"{where}, parameter '{path}'")
    for path, buffer in module.named_buffers():
        if is_lazy(buffer):
            raise NetworkError(
                "a layer has no size yet",
                where=f"{where}, buffer '{path}'",
                expected="a layer of known size",
                got="a lazy one, as nn.LazyBatchNorm2d is",
                remedy="give it its size: nn.BatchNorm2d(num_features)",
            )


def check_layer(part: nn.Module, where: str) -> None:
    """Raises NetworkError for a wrapper, and for what does not learn as an nn.Module does."""
    kind = type(part).__name__
    if kind in WRAPPERS:
        raise NetworkError(
            "a block is wrapped by what runs it elsewhere",
            where=where,
            expected="the module itself",
            got=kind,
            remedy=f"give what it wraps: net.{WRAPPERS[kind]}",
        )
    if isinstance(part, torch.jit.ScriptModule):
        raise NetworkError(
            "a scripted module cannot be built anew",
            where=where,
            expected="the nn.Module that was scripted",
            got=kind,
        )
    if ".quantized" in type(part).__module__:
        raise NetworkError(
            "a quantised layer does not learn",
            where=where,
            expected="layers in float32",
            got=kind,
            remedy="quantise it after training",
        )


def check_parameter(parameter: nn.Parameter, where: str) -> None:
    """Raises NetworkError for one without a size, and for another type than float32."""
    if is_lazy(parameter):
        raise NetworkError(
            "a layer has no size yet",
            where=where,
            expected="a layer of known size",
            got="a lazy one, as nn.LazyLinear is",
            remedy="give it its size: nn.Linear(in_features, out_features)",
        )
    if parameter.dtype != torch.float32:
        raise NetworkError(
            "blocks learn in float32",
            where=where,
            expected="torch.float32",
            got=parameter.dtype,
            remedy=remedy_for(parameter.dtype),
        )


def remedy_for(kind: torch.dtype) -> str:
    """The remedy for a parameter of another type, as `net.float()` changes floating-point numbers alone."""
    if kind.is_complex:
        return (
            "keep both parts as one real parameter, nn.Parameter(torch.view_as_real(w)), and call "
            "torch.view_as_complex(self.w) in forward, which ends by .abs()"
        )
    if not kind.is_floating_point:
        return "what does not learn is a buffer: self.register_buffer('NAME', tensor)"
    return (
        f"net.float(); for bfloat16 arithmetic: {setting('compute.precision', 'bf16')}, which keeps the weights in "
        "float32"
    )


def check_given(name: str, module: nn.Module) -> None:
    """`check_sound`, and that a module which the user made has its weights."""
    check_sound(name, module)
    for path, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise NetworkError(
                "a block has no weights",
                where=f"block '{name}', '{path}'",
                expected="numbers",
                got="a tensor on the meta device",
                remedy="make it on the CPU, or call net.to_empty(device='cpu') and initialise it",
            )
        if getattr(tensor, "_backward_hooks", None) or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise NetworkError(
                "a hook hangs on a weight",
                where=f"block '{name}', '{path}'",
                expected="weights without hooks: they are copied, and a copy has none",
                got="a hook on its gradient",
                remedy="nn.utils.parametrize.register_parametrization for a mask or a scale; requires_grad_(False) "
                "for what is not to learn",
            )


def check_row(module: nn.Module, forward: Callable[..., Any] | None = nn.Sequential.forward) -> None:
    """Raises NetworkError for a network of which more is run than its children in turn, as these alone make the blocks:
    a forward of its own, hooks on the whole, and weights that no child has. forward: what it must be; None: anything.
    """
    kind, rest = type(module).__name__, "what the whole does beside its children is in no block"
    if forward is not None and getattr(module.forward, "__func__", None) is not forward:
        raise NetworkError(
            "a network with a forward of its own",
            where=kind,
            expected="an nn.Sequential, whose forward calls its children in turn",
            got=f"{kind}.forward, which no block would run",
            remedy="write what it does as modules among the children; a part that branches is a module of its own: "
            "nn.Sequential(first, OwnModule(...), last)",
        )
    if any(getattr(module, name) for name in HOOKS):
        raise NetworkError(
            "a hook hangs on the whole network",
            where=kind,
            expected="hooks on its layers",
            got=rest,
            remedy="hang it on the child that it concerns, which is copied with its hooks: net[-1]",
        )
    own = [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
    if own:
        raise NetworkError(
            "a network has weights that are in none of its children",
            where=kind,
            expected="parameters and buffers of its layers",
            got=", ".join(own),
            remedy="keep them in the child that uses them",
        )
