"""Narrow copies of blocks: the same layers with fewer channels, after an input of any number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, setting
from ffdist.objectives.base import Following

Build = Callable[[], nn.Module]
Narrower = Callable[[int], int]
"""From a layer's number of channels to its copy's."""


def as_wide(channels: int) -> int:
    """A `Narrower` that leaves all as wide as it is, so that blocks of any layers can be copied."""
    return channels


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def narrow_copies(blocks: Sequence[Following], x: Tensor, narrower: Narrower, where: object) -> nn.Sequential:
    """Copies of `blocks` in a row, for inputs like `x`, whose layers give `narrower(channels)` channels.

    A copy starts from the values that the block starts from, cut to its size and scaled to the same spread. Where a
    block adds its input to its output, a 1x1 convolution (a linear layer) in front brings the input to the copy's
    width. A pool passes on a map that is too small for it. With `as_wide`, copies are the whole blocks, of any layers.
    where: whose head they become.
    Raises NetworkError, naming the block, for layers that cannot be copied so: attention, a module's own parameters.
    """
    copies = nn.Sequential()
    for name, build, _ in blocks:
        copy = _narrow_copy(name, build, x, narrower, where)
        copies.append(copy)
        x = _output_of(copy, x)
    return copies


def _narrow_copy(name: str, build: Build, x: Tensor, narrower: Narrower, where: object) -> nn.Module:
    channels = x.shape[1 if x.dim() == 4 else -1]
    layer = nn.Conv2d(channels, narrower(channels), 1, bias=False) if x.dim() == 4 else None
    neck = layer or nn.Linear(channels, narrower(channels), bias=False)
    reason: Exception | None = None
    whole = narrower is as_wide
    # a block that adds its input to its output needs that input in the copy's width: only a trial shows which do
    for in_front in ([],) if whole else ([], [neck]):
        copy = nn.Sequential(*in_front, build() if whole else _supported(name, build(), where))
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args: _fit(layer, args[0], narrower))
            for layer in ([] if whole else copy[-1].modules())
        ]
        try:
            _output_of(copy, x)
        except (RuntimeError, ValueError) as error:
            reason = error
        else:
            return copy if in_front else copy[0]
        finally:
            for hook in hooks:
                hook.remove()
    raise NetworkError(
        f"block '{name}' cannot be copied with fewer channels",
        where=where,
        expected="convolutions, linear layers, norms, and functions between them",
        got=str(reason).splitlines()[0],
        remedy=f"another rule ({setting('rule.objective', 'dgl')}), or whole copies: width=1",
    ) from reason


def _output_of(module: nn.Module, x: Tensor) -> Tensor:
    """Its output on x, in evaluation mode: running statistics stay as they are."""
    training = module.training
    with torch.no_grad():
        y = module.eval()(x)
    module.train(training)
    return y


def _supported(name: str, block: nn.Module, where: object) -> nn.Module:
    """Raises NetworkError for a layer with parameters that `_fit` does not know."""
    for path, layer in block.named_modules():
        own = [*layer.parameters(recurse=False)]
        if own and not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.PReLU, *NORMS)):
            raise NetworkError(
                f"block '{name}' cannot be copied with fewer channels",
                where=where,
                expected="parameters of convolutions, linear layers and norms alone",
                got=f"{path or 'the block itself'}: {type(layer).__name__}",
                remedy=f"another rule ({setting('rule.objective', 'dgl')}), or whole copies: width=1",
            )
    return block


def _fit(layer: nn.Module, x: Tensor, narrower: Narrower) -> None:
    """Make the layer take x, and give `narrower` of its channels, before it is called for the first time."""
    match layer:
        case nn.Conv1d() | nn.Conv2d():
            _fit_convolution(layer, x.shape[1], narrower)
        case nn.Linear():
            layer.in_features, layer.out_features = x.shape[-1], narrower(layer.out_features)
            _cut(layer, "weight", (layer.out_features, layer.in_features))
            _cut(layer, "bias", (layer.out_features,))
        case nn.PReLU() if layer.num_parameters > 1:
            layer.num_parameters = x.shape[1]
            _cut(layer, "weight", (layer.num_parameters,))
        case nn.modules.batchnorm._NormBase():
            layer.num_features = x.shape[1]
            for name in ("weight", "bias", "running_mean", "running_var"):
                _cut(layer, name, (layer.num_features,))
        case nn.MaxPool2d() | nn.AvgPool2d() if min(x.shape[-2:]) < _largest(layer.kernel_size):
            layer.kernel_size, layer.stride, layer.padding = 1, 1, 0  # a map that is too small passes as it is
        case nn.GroupNorm():
            layer.num_channels = x.shape[1]
            for name in ("weight", "bias"):
                _cut(layer, name, (layer.num_channels,))
        case nn.LayerNorm() | nn.RMSNorm():
            layer.normalized_shape = tuple(x.shape[-len(layer.normalized_shape) :])
            for name in ("weight", "bias"):
                _cut(layer, name, layer.normalized_shape)


def _largest(kernel: int | tuple[int, ...]) -> int:
    return kernel if isinstance(kernel, int) else max(kernel)


def _fit_convolution(layer: nn.Conv1d | nn.Conv2d, channels: int, narrower: Narrower) -> None:
    depthwise = layer.groups == layer.in_channels > 1
    outputs = channels * (layer.out_channels // layer.in_channels) if depthwise else narrower(layer.out_channels)
    layer.groups = channels if depthwise else layer.groups
    if channels % layer.groups or outputs % layer.groups:
        raise ValueError(f"{layer.groups} groups of {channels} channels in, {outputs} out")
    layer.in_channels, layer.out_channels = channels, outputs
    _cut(layer, "weight", (outputs, channels // layer.groups, *layer.kernel_size))
    _cut(layer, "bias", (outputs,))


def _cut(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Bring a parameter or buffer to `shape`: its first values where it is large enough, repeated where it is not.

    A weight of fewer inputs is scaled up, so that what it gives keeps its spread; one of more, down.
    """
    value = getattr(layer, name, None)
    if value is None or tuple(value.shape) == shape:
        return
    repeats = [math.ceil(new / old) for new, old in zip(shape, value.shape, strict=True)]
    cut = value.detach().repeat(repeats)[tuple(slice(size) for size in shape)].clone()
    if len(shape) > 1 and not isinstance(layer, NORMS):
        cut *= math.sqrt(value[0].numel() / math.prod(shape[1:]))
    if isinstance(value, nn.Parameter):
        cut = nn.Parameter(cut, requires_grad=value.requires_grad)
    setattr(layer, name, cut)
