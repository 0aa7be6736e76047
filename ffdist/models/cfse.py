"""The network of channel-wise competitive learning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from ffdist.errors import NetworkError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain
from ffdist.models.parts import check_picture, check_widths


def _conv_block(in_width: int, width: int, groups: int, *, pool: bool) -> nn.Module:
    conv = nn.Conv2d(in_width, width, 3, padding=1, groups=groups)
    return nn.Sequential(conv, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(width, eps=1e-4))


@checked_arguments
def cfse_cnn(
    input_shape: Sequence[int],
    num_classes: int,
    widths: tuple[int, ...] = (20, 80, 240, 480),
    groups: tuple[int, ...] = (),
) -> Chain:
    """CFSE blocks (Papachristodoulou et al., AAAI 2024): a plain convolution, then one grouped by class and a 2x2 pool.

    A block of the chain is one convolution: conv 3x3, ReLU, pool (every other), batch norm.

    widths: channels a convolution; of every second a multiple of its groups. CIFAR-100: 60,120,240,400,800,1600.
    groups: groups of the 2nd, 4th, ... convolution; empty for the number of classes. CIFAR-100, whose early layers
        learn its 20 super-classes: 20,20,100.
    """
    check_widths("cfse-cnn", widths)
    channels, _, _ = check_picture("cfse-cnn", input_shape, 2 ** (len(widths) // 2))
    groups = groups or (num_classes,) * (len(widths) // 2)
    if len(groups) != len(widths) // 2:
        raise NetworkError(
            "groups and widths do not go together",
            where="model cfse-cnn",
            got=f"{groups}, {widths}",
            expected="a number of groups for every second width",
        )
    blocks, before = [], channels
    for i, width in enumerate(widths):
        g = groups[i // 2] if i % 2 else 1
        if width % g or before % g:
            raise NetworkError(
                "the groups of a convolution do not divide its channels",
                where=f"cfse-cnn, block {i}",
                expected=f"multiples of {g}",
                got=f"{before} -> {width} channels",
                remedy="choose widths that are multiples of the number of classes",
            )
        blocks.append((f"conv{i + 1}", partial(_conv_block, before, width, g, pool=i % 2 == 1)))
        before = width
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes)
