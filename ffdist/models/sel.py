"""The convolutional network of spatially extended labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from ffdist.errors import ConfigError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain
from ffdist.models.parts import check_picture


def _conv_block(in_width: int, width: int, kernel: int, *, pool: bool) -> nn.Module:
    conv = nn.Conv2d(in_width, width, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.GroupNorm(1, in_width), conv, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))


@checked_arguments
def sel_cnn(
    input_shape: Sequence[int], num_classes: int, depth: int = 3, width: int = 128, kernel: int = 7, pool_every: int = 0
) -> Chain:
    """Scodellaro et al. (arXiv 2312.14924): `depth` blocks of layer norm, convolution 7x7 of 128 filters and ReLU.

    The norm opens a block: the goodness is read after the ReLU, and only the direction of what a block gets counts.
    Where the paper has it is not published, nor is its deeper network; ours for CIFAR is depth 6, pool_every 2. Weights
    are drawn by He's rule, with which the goodness starts at its threshold.

    depth: number of blocks.
    width: filters of each convolution.
    kernel: side of the filters in pixels, odd.
    pool_every: a 2x2 max pool closes every `pool_every`-th block but the last; 0 for none.
    """
    if depth < 1 or width < 1 or kernel < 1 or kernel % 2 == 0 or pool_every < 0:
        raise ConfigError(
            "these blocks do not make a SEL network",
            where="model sel-cnn",
            expected="depth and width of at least 1, an odd kernel",
            got=f"depth {depth}, width {width}, kernel {kernel}, pool_every {pool_every}",
        )
    pools = [pool_every > 0 and (i + 1) % pool_every == 0 and i < depth - 1 for i in range(depth)]
    channels, _, _ = check_picture("sel-cnn", input_shape, 2 ** sum(pools))
    widths = [channels] + [width] * depth
    blocks = [(f"conv{i + 1}", partial(_conv_block, *widths[i : i + 2], kernel, pool=pools[i])) for i in range(depth)]
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes)
