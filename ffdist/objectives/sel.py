"""Spatially extended labels: Forward-Forward for convolutional networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.objectives.base import BlockSpec
from ffdist.objectives.threshold import LabelledInput, ThresholdHead

PUBLISHED = ((0, -6), (-2, 0), (0, -4), (0, -2), (-6, 0), (-4, 0), (-1, 1), (-2, 2), (-2, -2), (-1, -1))
"""(rows, columns): periods of the wave of class 0 .. 9 along the picture's sides; they give the published pictures."""

SIDES = tuple((height, width) for size in (3, 5, 7, 9) for height, width in ((size, 1), (1, size), (size, size)))
"""Structuring elements: columns, rows and squares."""


def _check(weight: float, rule: str) -> None:
    if not 0 < weight <= 1:
        raise ConfigError(
            "the label's weight is out of range",
            where=f"objective {rule}, weight",
            expected="0 < x <= 1",
            got=weight,
        )


def _check_picture(spec: BlockSpec, rule: str, max_classes: int) -> None:
    """The labels are pictures: the network must take some, and there must be one for each class."""
    if spec.index:
        return
    if len(spec.input_shape) != 3:
        raise NetworkError(
            f"{rule} writes labels over whole pictures",
            where=spec,
            expected="an input of (C, H, W)",
            got=list(spec.input_shape),
            remedy="take hinton for vectors",
        )
    if spec.num_classes > max_classes:
        raise NetworkError(
            f"{rule} has not as many distinct labels for pictures of this size",
            where=spec,
            expected=f"at most {max_classes} classes",
            got=spec.num_classes,
            remedy=f"enlarge the pictures: {setting('dataset.image_size')}",
        )


@dataclass(frozen=True)
class SELFourier(LabelledInput):
    """Spatially extended labels as plane waves (Scodellaro et al., arXiv 2312.14924; Sci. Rep. 2025).

    The label is a wave over the whole picture, of one frequency and orientation a class, so that a filter sees it at
    every place: (1 - weight) * x + weight * cos(2 pi (ky r / H + kx c / W)). Goodness, loss and prediction as in
    `hinton`, over layers 2 .. L. Neutral pictures bear the mean of all waves.

    A gradient crosses the block's own layers, and nothing before.

    The waves of the first ten classes are those of the published pictures. Our own choices: the formula of mixing
    (not published; weight 0.35 is); waves of mean 0 and variance 1, as our pictures are; for more classes, and where a
    picture is too small to tell a wave from a slower one, further pairs (ky, kx) in order of frequency.
    """

    weight: float = 0.35
    """The weight of the wave; the picture has the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.weight, "sel-fourier")

    @property
    def input_rms(self) -> float | None:
        return 1.0

    def head(self, spec: BlockSpec) -> nn.Module:
        is_picture = spec.index == 0 and len(spec.input_shape) == 3
        _check_picture(spec, "sel-fourier", len(periods(*spec.input_shape[1:])) if is_picture else 0)
        return ThresholdHead(spec, "sel-fourier", readout=self.predict == "linear")

    def stamp(self, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        return torch.lerp(x, self._waves(x, num_classes)[labels].expand_as(x), self.weight)

    def stamp_all(self, x: Tensor, label: int, num_classes: int) -> Tensor:
        return torch.lerp(x, self._waves(x, num_classes)[label].expand_as(x), self.weight)

    def neutral(self, x: Tensor, num_classes: int) -> Tensor:
        return torch.lerp(x, self._waves(x, num_classes).mean(0).expand_as(x), self.weight)

    def _waves(self, x: Tensor, num_classes: int) -> Tensor:
        return waves(num_classes, x.shape[2], x.shape[3])[:, None].to(x)


@lru_cache
def periods(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Pairs (ky, kx) of distinct waves that a picture of this size can show: the published ones first."""
    top, side = (height - 1) // 2, (width - 1) // 2  # below half a period a pixel, beyond which waves look slower
    # (ky, kx) and (-ky, -kx) are one wave: half of the plane has each once
    half_plane = [(ky, kx) for ky in range(-top, 1) for kx in range(-side, side + 1) if ky < 0 or kx < 0]
    further = sorted(half_plane, key=lambda k: (k[0] ** 2 + k[1] ** 2, k))
    shown = [k for k in PUBLISHED if abs(k[0]) <= top and abs(k[1]) <= side]
    return (*shown, *(k for k in further if k not in shown))


def waves(num_classes: int, height: int, width: int) -> Tensor:
    """One wave a class, mean 0 and variance 1, float32 [K, H, W]."""
    ky, kx = torch.tensor(periods(height, width)[:num_classes], dtype=torch.float32).T
    rows = 2 * math.pi * ky[:, None, None] * torch.arange(height)[:, None] / height
    columns = 2 * math.pi * kx[:, None, None] * torch.arange(width) / width
    return math.sqrt(2) * (rows.cos() * columns.cos() - rows.sin() * columns.sin())


@dataclass(frozen=True)
class SELMorphological(LabelledInput):
    """Spatially extended labels as morphological transforms of the picture itself (Scodellaro et al., Sci. Rep. 2025).

    A class is an operator and a structuring element: (1 - weight) * x + weight * T_k(x). There is no pattern beside
    the picture that a block could learn to read without looking at the picture. Neutral pictures are as they are.

    A gradient crosses the block's own layers, and nothing before.

    The paper's operators are not published; ours are dilation, erosion, gradient, top hat and bottom hat (in turn from
    class to class) by flat columns, rows and squares of 3, 5, 7, 9 pixels (another after every fifth class).
    """

    weight: float = 0.8
    """The weight of the transformed picture; the picture itself has the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.weight, "sel-morphological")

    def head(self, spec: BlockSpec) -> nn.Module:
        _check_picture(spec, "sel-morphological", 5 * len(SIDES))
        return ThresholdHead(spec, "sel-morphological", readout=self.predict == "linear")

    def stamp(self, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        stamped = torch.empty_like(x)
        for label in labels.unique().tolist():
            stamped[labels == label] = self.stamp_all(x[labels == label], label, num_classes)
        return stamped

    def stamp_all(self, x: Tensor, label: int, num_classes: int) -> Tensor:
        return torch.lerp(x, transform(x, label), self.weight)

    def neutral(self, x: Tensor, num_classes: int) -> Tensor:
        return x


def transform(x: Tensor, label: int) -> Tensor:
    """The picture as a class transforms it, [B, C, H, W] -> [B, C, H, W]."""
    element, operator = divmod(label, 5)
    sides = SIDES[element]
    match operator:
        case 0:
            return _dilated(x, sides)
        case 1:
            return _eroded(x, sides)
        case 2:
            return _dilated(x, sides) - _eroded(x, sides)
        case 3:
            return x - _dilated(_eroded(x, sides), sides)
        case _:
            return _eroded(_dilated(x, sides), sides) - x


def _dilated(x: Tensor, sides: tuple[int, int]) -> Tensor:
    return F.max_pool2d(x, sides, 1, (sides[0] // 2, sides[1] // 2))


def _eroded(x: Tensor, sides: tuple[int, int]) -> Tensor:
    return -_dilated(-x, sides)
