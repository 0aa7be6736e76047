"""The small convolutional networks of the SFF paper (arXiv 2501.03176, table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from ffdist.errors import NetworkError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain, Shape
from ffdist.models.parts import FlatMap, check_picture, check_widths


def _conv_block(in_channels: int, out_channels: int, *, norm: bool, pool: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(out_channels))
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU())  # after the pool: the same bits, a quarter of the work


def _flat_classifier(shape: Shape, num_classes: int, *, dropout: float) -> nn.Module:
    """Dropout, then linear on all of the last map; [B, C, H, W] -> [B, K]."""
    channels, height, width = shape
    return nn.Sequential(FlatMap(), nn.Dropout(dropout), nn.Linear(channels * height * width, num_classes))


@checked_arguments
def cnn(
    input_shape: Sequence[int],
    num_classes: int,
    widths: Sequence[int] = (32, 64, 128),
    dropout: float = 0.0,
    *,
    norm: bool = False,
) -> Chain:
    """Three (or `len(widths)`) blocks of convolution and ReLU, with a 2x2 max pool after the first two.

    input_shape: (C, H, W), sides of at least 4. With widths 32, 64, 128 the parameters are exactly the paper's. Our own
    choice: a pool belongs to the block before it, so that a local loss reads the pooled map (the paper's CNN, unlike
    its CNNB, is "not grouped into blocks").

    widths: output channels of each block.
    dropout: rate, in the classifier that backpropagation puts after the last block. The paper has one, of a rate it
        does not give; none here, since a CPU draws its random numbers slowly, and FF has none to draw.
    norm: batch normalisation after each convolution.

    Raises NetworkError for no such share.
    """
    if not 0 <= dropout < 1:
        raise NetworkError("dropout is a share", where="cnnb" if norm else "cnn", expected="0 <= x < 1", got=dropout)
    in_channels, _, _ = check_picture("cnnb" if norm else "cnn", input_shape, 4)
    check_widths("cnnb" if norm else "cnn", widths)
    channels = [in_channels, *widths]
    blocks = [
        (f"conv{i + 1}", partial(_conv_block, channels[i], channels[i + 1], norm=norm, pool=i < 2))
        for i in range(len(widths))
    ]
    return Chain(
        blocks, input_shape=input_shape, num_classes=num_classes, classifier=partial(_flat_classifier, dropout=dropout)
    )


@checked_arguments
def cnnb(
    input_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (32, 64, 128), dropout: float = 0.0
) -> Chain:
    """`cnn` with batch normalisation between each convolution and its ReLU.

    widths: output channels of each block.
    dropout: rate, in the classifier that backpropagation puts after the last block.
    """
    return cnn(input_shape, num_classes, widths, dropout, norm=True)
