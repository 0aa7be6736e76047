"""Check what a block is made of: parameters that are there, in float32, of a module that is no wrapper."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ffdist.errors import NetworkError, setting

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Modules that hold the user's own, and where: they place or compile it themselves."""


def check_sound(name: str, module: nn.Module) -> None:
    """Raises NetworkError for a block whose weights have no size yet, are not float32, or are another's to place."""
    where = f"block '{name}'"
    for path, part in module.named_modules():
        kind = type(part).__name__
        if kind in WRAPPERS:
            raise NetworkError(
                "a block is wrapped by what runs it elsewhere",
                where=f"{where}, {path or 'the whole'}",
                expected="the module itself",
                got=kind,
                remedy=f"give what it wraps: net.{WRAPPERS[kind]}",
            )
        if isinstance(part, torch.jit.ScriptModule):
            raise NetworkError(
                "a scripted module cannot be built anew",
                where=f"{where}, {path or 'the whole'}",
                expected="the nn.Module that was scripted",
                got=kind,
            )
        if ".quantized" in type(part).__module__:
            raise NetworkError(
                "a quantised layer does not learn",
                where=f"{where}, {path or 'the whole'}",
                expected="layers in float32",
                got=kind,
                remedy="quantise it after training",
            )
    for path, parameter in module.named_parameters():
        at = f"{where}, parameter '{path}'"
        if is_lazy(parameter):
            raise NetworkError(
                "a layer has no size yet",
                where=at,
                expected="a layer of known size",
                got="a lazy one, as nn.LazyLinear is",
                remedy="give it its size: nn.Linear(in_features, out_features)",
            )
        if parameter.dtype != torch.float32:
            raise NetworkError(
                "blocks learn in float32",
                where=at,
                expected="torch.float32",
                got=parameter.dtype,
                remedy=f"net.float(); for bfloat16 arithmetic: {setting('compute.precision', 'bf16')}, which "
                "keeps the weights "
                "in float32",
            )
    for path, buffer in module.named_buffers():
        if is_lazy(buffer):
            raise NetworkError(
                "a layer has no size yet",
                where=f"{where}, buffer '{path}'",
                expected="a layer of known size",
                got="a lazy one, as nn.LazyBatchNorm2d is",
                remedy="give it its size: nn.BatchNorm2d(num_features)",
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
