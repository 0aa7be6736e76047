"""Transforms of colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffdist.data.transforms import pixels
from ffdist.data.transforms.base import BatchTransform
from ffdist.data.transforms.draws import between


@dataclass(frozen=True)
class ColorJitter(BatchTransform):
    """Changes brightness, contrast, saturation and hue of each picture at random, in random order. As torchvision's."""

    of_bytes = True

    brightness: float | tuple[float, float] = 0.4
    """b: the factor is in max(0, 1 - b)..1 + b; or the least and the greatest factor."""
    contrast: float | tuple[float, float] = 0.4
    """As brightness."""
    saturation: float | tuple[float, float] = 0.4
    """As brightness; nothing in grey pictures."""
    hue: float | tuple[float, float] = 0.0
    """h: the hue turns by up to this share of the circle, at most 0.5; or the least and the greatest turn."""

    @property
    def numbers(self) -> int:
        return 8

    def check(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= limits(getattr(self, name), 1)[0] <= limits(getattr(self, name), 1)[1]:
                raise self.refuse(name, ">= 0, or least,greatest of factors that are")
        low, high = limits(self.hue, 0)
        if not -0.5 <= low <= high <= 0.5:
            raise self.refuse("hue", "0..0.5, or least,greatest in -0.5..0.5")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        order = drawn[:, :4].argsort(1)
        factors = self.factors(drawn)
        for place in range(4):
            for change in range(4):
                at, own = np.flatnonzero(order[:, place] == change), factors[change]
                if len(at) and own is not None:
                    x[at] = changed(x[at], change, own[at])
        return x

    def factors(self, drawn: np.ndarray) -> list[np.ndarray | None]:
        """[B] of brightness, contrast, saturation and hue; None where one is left alone."""
        given = (self.brightness, self.contrast, self.saturation, self.hue)
        ranges = [limits(each, 0 if place == 3 else 1) for place, each in enumerate(given)]
        return [
            between(drawn[:, 4 + place], low, high) if (low, high) != (own, own) else None
            for place, ((low, high), own) in enumerate(zip(ranges, (1, 1, 1, 0), strict=True))
        ]


def limits(extent: float | tuple[float, float], middle: int) -> tuple[float, float]:
    """The least and the greatest value that may be drawn. middle: 1 for factors, 0 for turns of the hue."""
    if isinstance(extent, tuple):
        return extent
    return (max(0.0, middle - extent) if middle else -extent), middle + extent


def changed(x: np.ndarray, change: int, factors: np.ndarray) -> np.ndarray:
    """Pictures [B, H, W, C] with one change, 0 to 3: brightness, contrast, saturation or hue. factors: [B]."""
    match change:
        case 0:
            return pixels.looked_up(x, pixels.brightness_tables(factors))
        case 1:
            return pixels.looked_up(x, pixels.contrast_tables(x, factors))
        case 2:
            return pixels.saturation(x, factors)
        case _:
            return pixels.hue(x, factors)


@dataclass(frozen=True)
class Grayscale(BatchTransform):
    """Makes a picture grey at random, in three equal channels. As torchvision's RandomGrayscale."""

    of_bytes = True

    p: float = 0.1
    """Share of the pictures."""

    @property
    def numbers(self) -> int:
        return 1

    def check(self) -> None:
        self.check_share("p")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        at = np.flatnonzero(drawn[:, 0] < self.p)
        x[at] = pixels.grey(x[at]).astype(np.uint8)
        return x
