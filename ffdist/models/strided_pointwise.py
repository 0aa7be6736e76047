"""A way round heap corruption in oneDNN's 1x1 convolutions with a stride, of few channels, in channels-last strides.

On x86 CPUs the backward pass by the weights of such a float32 convolution, with one group and fewer input channels than
a register has numbers, writes past its workspace where the maps' sides are whole multiples of the stride, and maps or
weights lie in channels-last strides, as blocks' do here (uxlfoundation/oneDNN issue 6035; seen in torch 2.15): the
process dies, or a gradient or another tensor is wrong. The shortcut of a narrow residual block is such a layer. To take
every stride-th place first gives the same result.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

FEW_CHANNELS = 16
"""float32 numbers in one register of AVX-512; AVX2 has eight, and a process may come to compute on either."""


def pick_places_first(module: nn.Module) -> None:
    """Have each such convolution within `module` take its places before it computes; harmless when done again."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and is_affected(layer):
            vars(layer)["_conv_forward"] = partial(on_places, layer.stride)


def is_affected(layer: nn.Conv2d) -> bool:
    """True for a convolution whose backward pass may write where it must not."""
    return (
        type(layer)._conv_forward is nn.Conv2d._conv_forward
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in ((0, 0), "valid")
        and layer.groups == 1
        and layer.in_channels < FEW_CHANNELS
    )


def on_places(stride: tuple[int, ...], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d(x, weight, bias, stride) of a 1x1 weight [out, in, 1, 1]: [N, in, H, W] -> [N, out, ...]."""
    if x.device.type != "cpu":
        return F.conv2d(x, weight, bias, (stride[0], stride[1]))
    return F.conv2d(x[..., :: stride[0], :: stride[1]], weight, bias)
