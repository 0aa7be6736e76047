"""Transforms that choose among many changes: RandAugment and TrivialAugment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffdist.data.transforms import pixels
from ffdist.data.transforms.base import BatchTransform
from ffdist.data.transforms.draws import whole

CHANGES = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""In torchvision's order and by its names."""
MOVING = range(1, 6)
SIGNED = range(1, 10)
BINS = 31
"""Magnitudes are 0..30."""


@dataclass(frozen=True)
class Extents:
    """The range of each operation at the greatest magnitude."""

    shear: float
    shift: tuple[float, float]
    """Pixels across and down."""
    degrees: float
    colour: float
    bits: int
    """The bits that go from 8."""


def matrices(changes: np.ndarray, levels: np.ndarray, size: tuple[int, int], extents: Extents) -> np.ndarray:
    """float [B, 2, 3] for `pixels.moved`. changes: int [B], in MOVING; levels: [B], in -1..1."""
    height, width = size
    found = np.zeros((len(changes), 2, 3))
    found[:, 0, 0] = found[:, 1, 1] = 1
    shear = levels * extents.shear
    across, down, turned = changes == 1, changes == 2, changes == 5
    found[across, 0, 1], found[across, 0, 2] = shear[across], shear[across] * (height / 2)
    found[down, 1, 0], found[down, 1, 2] = shear[down], shear[down] * (width / 2)
    for axis in (0, 1):
        at = changes == 3 + axis
        found[at, axis, 2] = -np.trunc(levels[at] * extents.shift[axis])
    angle = np.radians(levels[turned] * extents.degrees)
    found[turned, 0, :2] = np.stack([np.cos(angle), -np.sin(angle)], 1)
    found[turned, 1, :2] = np.stack([np.sin(angle), np.cos(angle)], 1)
    return found


def apply(x: np.ndarray, changes: np.ndarray, levels: np.ndarray, extents: Extents, fill: int) -> np.ndarray:
    """One change of each sample, in place. changes: int [B], places in CHANGES; levels: [B] in -1..1, shares of the
    greatest magnitude."""
    moving = np.flatnonzero((changes >= MOVING.start) & (changes < MOVING.stop))
    if len(moving):
        drawn = matrices(changes[moving], levels[moving], (x.shape[1], x.shape[2]), extents)
        x[moving] = pixels.warp(x[moving], drawn, fill)
    for change in range(MOVING.stop, len(CHANGES)):
        at = np.flatnonzero(changes == change)
        if len(at):
            x[at] = coloured(x[at], CHANGES[change], levels[at], extents)
    return x


def coloured(x: np.ndarray, change: str, levels: np.ndarray, extents: Extents) -> np.ndarray:
    """The samples with one and the same change."""
    factors = 1 + levels * extents.colour
    match change:
        case "Brightness":
            return pixels.looked_up(x, pixels.brightness_tables(factors))
        case "Color":
            return pixels.saturation(x, factors)
        case "Contrast":
            return pixels.looked_up(x, pixels.contrast_tables(x, factors))
        case "Sharpness":
            return pixels.sharpness(x, factors)
        case "Posterize":
            return pixels.looked_up(x, pixels.posterize_tables(np.rint(8 - levels * extents.bits).astype(np.int64)))
        case "Solarize":
            return pixels.looked_up(x, pixels.solarize_tables(255 * (1 - levels)))
        case "AutoContrast":
            return pixels.looked_up(x, pixels.autocontrast_tables(x))
        case _:
            return pixels.looked_up(x, pixels.equalize_tables(x))


def signed(changes: np.ndarray, levels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Levels with a sign by chance, where the change has two directions."""
    two_ways = (changes >= SIGNED.start) & (changes < SIGNED.stop)
    return np.where(two_ways & (drawn < 0.5), -levels, levels)


@dataclass(frozen=True)
class RandAugment(BatchTransform):
    """Applies `n` changes of 14 to each picture, one after the other, each of magnitude `m`, in a direction by chance:
    shears, shifts, turns, colours, sharpness, posterising and so on (Cubuk et al., arXiv 1909.13719), as torchvision's
    RandAugment."""

    of_bytes = True

    n: int = 2
    """Changes of each picture."""
    m: float = 9
    """Magnitude of each, 0..30."""
    fill: int = 0
    """What comes from outside of the picture, 0 (black) to 255."""

    @property
    def numbers(self) -> int:
        return 2 * self.n

    def check(self) -> None:
        if self.n < 1:
            raise self.refuse("n", ">= 1")
        if not 0 <= self.m <= BINS - 1:
            raise self.refuse("m", f"0..{BINS - 1}")
        if not 0 <= self.fill <= 255:
            raise self.refuse("fill", "0..255")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        for chosen, way in drawn.reshape(len(x), self.n, 2).transpose(1, 2, 0):
            changes = whole(chosen, len(CHANGES))
            levels = np.full(len(x), self.m / (BINS - 1))
            x = apply(x, changes, signed(changes, levels, way), self.extents(x), self.fill)
        return x

    def extents(self, x: np.ndarray) -> Extents:
        """The ranges of torchvision's RandAugment, in which shifts are shares of the picture's size."""
        return Extents(0.3, (150 / 331 * x.shape[2], 150 / 331 * x.shape[1]), 30, 0.9, 4)


@dataclass(frozen=True)
class TrivialAugment(BatchTransform):
    """Applies one change of 14 to each picture, of a magnitude by chance, up to strong ones (Müller and Hutter, arXiv
    2103.10158), as torchvision's TrivialAugmentWide."""

    of_bytes = True

    fill: int = 0
    """What comes from outside of the picture, 0 (black) to 255."""

    @property
    def numbers(self) -> int:
        return 3

    def check(self) -> None:
        if not 0 <= self.fill <= 255:
            raise self.refuse("fill", "0..255")

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        changes = whole(drawn[:, 0], len(CHANGES))
        levels = signed(changes, whole(drawn[:, 1], BINS) / (BINS - 1), drawn[:, 2])
        return apply(x, changes, levels, Extents(0.99, (32, 32), 135, 0.99, 6), self.fill)
