"""The outputs of a chain's blocks, found without data: their shapes, and where their channels are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ffdist.errors import FfdistError, NetworkError, described, setting
from ffdist.models.axes import AxisTracer, OutputLayout, layout_of

if TYPE_CHECKING:
    from ffdist.models.chain import Chain

SMALL = 2**24
"""Parameters of a block, or numbers of its input, up to which its shapes are found by computing it: 64 MiB."""


class Output(NamedTuple):
    """The output of a block for one sample."""

    shape: tuple[int, ...]
    """The output's shape without the batch."""
    layout: OutputLayout | None
    """None where the channels are at an axis that rules cannot read, or their axis is not known."""
    axis: int | None
    """The channels' axis, counted with the batch; None where it is not known."""
    largest: int = 0
    """Numbers of one sample in the largest tensor that the block computes."""


def trace_outputs(chain: Chain) -> Iterator[Output]:
    """Pass a batch of two samples through the blocks, one after the other, so that a block which mixes or drops samples
    is seen; raises as `Chain.shapes`."""
    x = torch.empty(2, *chain.input_shape, device="meta")
    axis = 1 if len(chain.input_shape) in (1, 3) else None
    for index, name in enumerate(chain.names):
        y, axis, largest = _run_block(chain, index, x, axis)
        if not isinstance(y, Tensor):
            raise NetworkError(
                f"block '{name}' does not return one tensor",
                where=place_of(chain, index),
                expected="a tensor [B, ...]",
                got=f"a {type(y).__name__}",
                remedy="wrap the layer in a module that returns the tensor alone",
            )
        if y.dim() < 2 or y.shape[0] != x.shape[0]:
            raise NetworkError(
                f"block '{name}' does not keep the samples of a batch apart",
                where=place_of(chain, index),
                expected=f"[{x.shape[0]}, ...] of {x.shape[0]} samples",
                got=list(y.shape),
                remedy="let the batch be the first axis of what it returns (batch_first=True, x.flatten(1))",
            )
        if not y.is_floating_point() or y.dtype != torch.float32:
            raise NetworkError(
                f"block '{name}' does not return float32",
                where=place_of(chain, index),
                expected="torch.float32",
                got=y.dtype,
                remedy="end its forward by .float(), or by .abs() of complex numbers",
            )
        yield Output(tuple(y.shape[1:]), layout_of(y.shape[1:], axis), axis, largest // len(x))
        x = y.to("meta")


def _run_block(chain: Chain, index: int, x: Tensor, axis: int | None) -> tuple[object, int | None, int]:
    """A block's output, where its channels are, and the numbers in its largest tensor.

    On the meta device, or on the CPU, where inputs are zeros: a small block of small samples, since torch's
    functions for meta tensors import its compiler, which takes seconds; and one that looks at numbers, which meta
    tensors have not.
    """
    block = chain.build_meta(index)
    if max(x.numel(), sum(p.numel() for p in block.parameters())) <= SMALL:
        with suppress(NetworkError):  # zeros need not suit it: what is wrong with the block, the meta device tells
            return _run_on_zeros(chain, index, x, axis)
    try:
        return _run(chain, block, index, x, axis)
    except NetworkError as error:
        if "meta" not in str(error.__cause__).lower():
            raise
    return _run_on_zeros(chain, index, x, axis)


def _run_on_zeros(chain: Chain, index: int, x: Tensor, axis: int | None) -> tuple[object, int | None, int]:
    return _run(chain, chain.build(index, seed=0), index, torch.zeros(x.shape), axis)


def _run(chain: Chain, block: nn.Module, index: int, x: Tensor, axis: int | None) -> tuple[object, int | None, int]:
    name, version = chain.names[index], x._version
    try:
        with torch.no_grad(), AxisTracer(x, axis) as trace, trace.heeding(block, name):
            y = block(x)
    except FfdistError:
        raise
    except Exception as error:  # a user's module may raise anything
        raise NetworkError(
            f"block '{name}' does not take the input it gets",
            where=place_of(chain, index),
            expected=f"a module that takes [B, {', '.join(map(str, x.shape[1:]))}]",
            got=described(error),
            remedy=_remedy(chain, str(error)),
        ) from error
    if x._version != version:
        raise NetworkError(
            f"block '{name}' changes its input in place",
            where=place_of(chain, index),
            expected="an input left as it is, since the block before still learns from it",
            remedy=f"build the layer with inplace=False, or join it to the block before ({setting('network.blocks')})",
        )
    if not isinstance(y, Tensor):
        return y, None, 0
    at = trace.axis(y)
    if at is None and chain.axes:
        at = 1 if chain.axes == "channels_first" else y.dim() - 1
    return y, at, trace.largest


def _remedy(chain: Chain, message: str) -> str:
    if "indices" in message and "long" in message.lower():
        return "samples come as float32, token ids too: call x.long() before the nn.Embedding, in a module of your own"
    size = f" ({setting('dataset.image_size')})" if len(chain.input_shape) == 3 else f" {chain.input_shape}"
    return f"check the input shape{size} and the order of the blocks"


def place_of(chain: Chain, index: int) -> str:
    """A block's place in its chain, for errors."""
    return f"block {index} of {len(chain)}"


def unknown_axes_error(chain: Chain, index: int, name: str, output: Output) -> NetworkError:
    """The error for a block whose channels rules cannot find."""
    sizes = ", ".join(map(str, output.shape))
    elsewhere = output.axis is not None
    return NetworkError(
        f"the channels of block '{name}' are at axis {output.axis}"
        if elsewhere
        else f"cannot tell which axis of block '{name}' has its channels",
        where=f"{place_of(chain, index)}, output [N, {sizes}]",
        expected="channels after the batch, [N, C, ...], or last, [N, ..., C]",
        remedy="end the block by x.permute(...)"
        if elsewhere
        else "say it in the block's class, or of the whole "
        "nn.Sequential: axes = 'channels_first' (as of nn.Conv1d) or axes = 'channels_last' (tokens [N, T, C])",
    )
