"""Mixup and cutmix: each sample with the one before it in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ffdist.data.transforms.base import MixTransform

NODES = 4096


@dataclass(frozen=True)
class Mixup(MixTransform):
    """Blends each picture with the one before it in the batch, and their labels alike (Zhang et al., arXiv 1710.09412).
    As torchvision's and timm's, with a share of each sample's own (timm's mode "elem")."""

    alpha: float = 1.0
    """The parameter of the Beta(alpha, alpha) distribution of the shares. Small: most are near to 0 or 1; timm's
    recipes have 0.1 to 0.8."""
    p: float = 1.0
    """Share of the pictures that are blended."""

    @property
    def numbers(self) -> int:
        return 2

    def check(self) -> None:
        check(self)

    def mix(self, x: np.ndarray, others: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        share = shares(self, drawn)
        own = share.astype(np.float32)[:, None, None, None]
        np.multiply(x, own, out=x)
        x += others * (1 - own)
        return share


@dataclass(frozen=True)
class Cutmix(MixTransform):
    """Puts a rectangle of the picture before it in the batch into each picture; labels are mixed by the areas (Yun et
    al., arXiv 1905.04899). As torchvision's and timm's, with a rectangle of each sample's own (timm's mode "elem")."""

    alpha: float = 1.0
    """The parameter of the Beta(alpha, alpha) distribution of the shares of the area that are kept."""
    p: float = 1.0
    """Share of the pictures that get a rectangle."""

    @property
    def numbers(self) -> int:
        return 4

    def check(self) -> None:
        check(self)

    def mix(self, x: np.ndarray, others: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        top, bottom, left, right = rectangles(shares(self, drawn), (x.shape[1], x.shape[2]), drawn[:, 2:])
        down, across = np.arange(x.shape[1]), np.arange(x.shape[2])
        rows = (down >= top[:, None]) & (down < bottom[:, None])
        columns = (across >= left[:, None]) & (across < right[:, None])
        inside = rows[:, :, None] & columns[:, None, :]
        x[inside] = others[inside]
        return 1 - (bottom - top) * (right - left) / (x.shape[1] * x.shape[2])


def rectangles(share: np.ndarray, size: tuple[int, int], drawn: np.ndarray) -> list[np.ndarray]:
    """Top, bottom, left and right, int [B] each, of rectangles around a point, cut to the picture. share: [B], of the
    area that is kept; drawn: [B, 2] in [0, 1), the point down and across."""
    edges = []
    for length, place in zip(size, drawn.T, strict=True):
        middle = (place * length).astype(np.int64)
        half = (0.5 * np.sqrt(1 - share) * length).astype(np.int64)
        edges += [np.clip(middle - half, 0, length), np.clip(middle + half, 0, length)]
    return edges


def check(mix: Mixup | Cutmix) -> None:
    if mix.alpha <= 0:
        raise mix.refuse("alpha", "> 0", "leave the transform out for no mixing")
    mix.check_share("p")


def shares(mix: Mixup | Cutmix, drawn: np.ndarray) -> np.ndarray:
    """Each sample's share of itself in the mix, float64 [B]; 1 for those that stay as they are."""
    return np.where(drawn[:, 0] < mix.p, beta(drawn[:, 1], mix.alpha), 1.0)


def beta(uniform: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers from the Beta(alpha, alpha) distribution, by the inverse of its distribution function."""
    power = min(alpha, 1.0)
    nodes, reached = _quantiles(alpha, power)
    lower = np.minimum(uniform, 1 - uniform)  # it is symmetric
    found = np.interp(lower, reached, nodes) ** (1 / power)
    return np.where(uniform < 0.5, found, 1 - found)


@cache
def _quantiles(alpha: float, power: float) -> tuple[np.ndarray, np.ndarray]:
    """u = t^power on a grid up to t = 1/2, over which the density t^(alpha - 1) (1 - t)^(alpha - 1) has no pole, and
    the share of the distribution below each."""
    nodes = np.linspace(0, 0.5**power, NODES + 1)
    middles = ((nodes[:-1] + nodes[1:]) / 2) ** (1 / power)
    reached = np.concatenate([[0.0], np.cumsum(middles ** (alpha - power) * (1 - middles) ** (alpha - 1))])
    return nodes, reached / (2 * reached[-1])
