"""Blocks rewritten by torch.compile, each by itself, so that no cut changes what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ffdist.errors import ConfigError, setting
from ffdist.objectives import BlockSpec

if TYPE_CHECKING:
    from ffdist.pipeline.block import BlockConfig

FORMS = 1 << 20
"""Programs that blocks of one process may have together: torch's own limit of a few is for a single function, which all
of a network's blocks seem to be, and beyond it would leave some as they are, by the cut."""


def compile_block(module: nn.Module) -> None:
    """Let torch rewrite it at its first call, for each shape of its input anew: what it makes for shapes that vary
    would depend on those that it has seen of other blocks in this process."""
    from torch._dynamo import config as limits  # the compiler takes seconds to import

    limit = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"  # as torch 2.6 has it
    for name in (limit, f"accumulated_{limit}"):
        setattr(limits, name, max(getattr(limits, name), FORMS))
    module._compiled_call_impl = torch.compile(function_to_compile(module), dynamic=False)


def function_to_compile(module: nn.Module) -> Callable[..., Any]:
    """The function that `module.compile` compiles, in a frame of ours: torch 2.6 steps over frames of its own, and
    would leave an `nn.Sequential` of its layers as it is, without a word."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    return call


@contextmanager
def compiling(spec: BlockSpec, config: BlockConfig) -> Iterator[None]:
    """A block may be compiled inside. Raises ConfigError where torch cannot, naming the block."""
    try:
        yield
    except Exception as error:
        if not config.settings.compute.compile or not is_compilers(error):
            raise
        raise ConfigError(
            "torch cannot compile a block",
            where=f"{setting('compute.compile')}, {spec}",
            got=reason(error),
            remedy=remedy(error),
        ) from error


def is_compilers(error: BaseException) -> bool:
    """True if it is of torch's compiler, and not of what the block computes."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return isinstance(error, (TorchDynamoException, InvalidCxxCompiler))


def reason(error: BaseException) -> str:
    """The first line of what it says, and of what caused it."""
    inner = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0] if lines else ''}"


def remedy(error: BaseException) -> str:
    """A C++ compiler, where that is what torch lacks; else to do without compiling."""
    missing = "compiler" in str(error).lower() and "InvalidCxxCompiler" in repr(error) + str(error)
    without = f"leave {setting('compute.compile')} out"
    return f"install g++, or name a C++ compiler in CXX; or {without}" if missing else without
