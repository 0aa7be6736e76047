"""The VGG networks of the local learning papers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from ffdist.errors import ConfigError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain
from ffdist.models.parts import check_picture

VGG8 = (128, -256, 256, -512, -512, -512, 512)
VGG11 = (128, -256, 256, -512, 512, -512, 512, -512, 512, 512)


def _block(in_width: int, width: int, pool_before: str, pool_after: str, norm: bool, dropout: float) -> nn.Module:
    conv = nn.Conv2d(in_width, width, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    layers = [*_pool(pool_before), conv, *([nn.BatchNorm2d(width)] if norm else [])]
    # ReLU commutes with a max pool, bit for bit, and costs a quarter there
    layers += [*_pool("max"), nn.ReLU()] if pool_after == "max" else [nn.ReLU(), *_pool(pool_after)]
    return nn.Sequential(*layers, *([nn.Dropout2d(dropout)] if dropout else []))


def _pool(kind: str) -> list[nn.Module]:
    return {"": [], "max": [nn.MaxPool2d(2)], "avg": [nn.AvgPool2d(2)]}[kind]


@checked_arguments
def vgg8(
    input_shape: Sequence[int],
    num_classes: int,
    widths: tuple[int, ...] = VGG8,
    norm: bool = True,
    pool: Literal["max", "avg"] = "max",
    pool_first: bool = False,
    dropout: float = 0.0,
) -> Chain:
    """A block a convolution: conv 3x3, batch norm, ReLU, pool where marked; 7 of them, the eighth is the classifier.

    widths: channels a block, negative where a 2x2 pool follows. The default, 128, 256P, 256, 512P, 512P, 512P, 512
        (ASGE, 2025), has 4 pools, so pictures of 16 pixels become one; for 10 classes, multiples of 10 suit the
        channel-wise rules.
    norm: batch normalisation in each block; the ASGE network has none.
    pool: kind of the 2x2 pools, the largest value or the mean.
    pool_first: the pool opens the next block in place of closing its own, as in ASGE, which reads its goodness before
        pooling; what goes from block to block is then four times as large where a pool is.
    dropout: rate at which whole channels are dropped, at the end of each block.
    """
    if not widths or 0 in widths or pool not in ("max", "avg") or (pool_first and widths[-1] < 0):
        raise ConfigError(
            "these widths do not make a VGG",
            where="model vgg, widths and pool",
            expected="channels, negative where a pool follows; not after the last with pool_first",
            got=f"widths {widths}, pool {pool}, pool_first {pool_first}",
        )
    channels, _, _ = check_picture("vgg", input_shape, 2 ** sum(w < 0 for w in widths))
    blocks, before, pending = [], channels, ""
    for i, width in enumerate(widths):
        marked = pool if width < 0 else ""
        after = "" if pool_first else marked
        blocks.append((f"conv{i + 1}", partial(_block, before, abs(width), pending, after, norm, dropout)))
        before, pending = abs(width), marked if pool_first else ""
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes)


@checked_arguments
def vgg11(
    input_shape: Sequence[int],
    num_classes: int,
    widths: tuple[int, ...] = VGG11,
    norm: bool = True,
    pool: Literal["max", "avg"] = "max",
    pool_first: bool = False,
    dropout: float = 0.0,
) -> Chain:
    """`vgg8` of 10 convolutions: 128, 256P, 256, 512P, 512, 512P, 512, 512P, 512, 512 (ASGE, 2025).

    widths: channels a block, negative where a 2x2 pool follows.
    norm: batch normalisation in each block; the ASGE network has none.
    pool: kind of the 2x2 pools, the largest value or the mean.
    pool_first: the pool opens the next block in place of closing its own.
    dropout: rate at which whole channels are dropped, at the end of each block.
    """
    return vgg8(input_shape, num_classes, widths, norm, pool, pool_first, dropout)
