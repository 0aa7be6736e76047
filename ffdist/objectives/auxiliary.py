"""Layers of which rules build auxiliary networks after a block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class PoolTo(nn.Module):
    """Averages maps [N, C, H, W] to at most `side` x `side`.

    Where the side divides the map's, by a plain pool: its gradient keeps the channels-last layout, and nothing after
    it copies, unlike that of an adaptive one.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, y: Tensor) -> Tensor:
        size = pooled_size(y.shape[-2:], self.side)
        if size == tuple(y.shape[-2:]):
            return y
        height, width = y.shape[-2] // size[0], y.shape[-1] // size[1]
        if (height * size[0], width * size[1]) == tuple(y.shape[-2:]):
            return F.avg_pool2d(y, (height, width))
        return F.adaptive_avg_pool2d(y, size)


def pooled_size(size: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width after `PoolTo(side)`."""
    return min(size[0], side), min(size[1], side)


class GlobalMax(nn.Module):
    """[N, C, H, W] -> [N, C]: the largest activity of each channel."""

    def forward(self, y: Tensor) -> Tensor:
        return y.flatten(2).amax(2)


class FlatPixels(nn.Module):
    """[N, C, H, W] -> [N, H * W * C], as a channels-last map lies in memory."""

    def forward(self, y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1).flatten(1)


class TokenMean(nn.Module):
    """[N, T, C] -> [N, C]."""

    def forward(self, y: Tensor) -> Tensor:
        return y.mean(1)


def convolutions(widths: Sequence[int], kernel: int) -> list[nn.Module]:
    """Convolution, batch norm, ReLU from each number of channels to the next."""
    return [
        layer
        for before, width in pairwise(widths)
        for layer in (
            nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
    ]


def linears(widths: Sequence[int], norm: type[nn.BatchNorm1d] | type[nn.LayerNorm] = nn.BatchNorm1d) -> list[nn.Module]:
    """Linear layer, norm, ReLU from each number of features to the next."""
    return [
        layer
        for before, width in pairwise(widths)
        for layer in (nn.Linear(before, width, bias=False), norm(width), nn.ReLU())
    ]
