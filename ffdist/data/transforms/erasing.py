"""Random erasing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ffdist.data.transforms.base import BatchTransform
from ffdist.data.transforms.draws import whole

ATTEMPTS = 10
Value = Literal["mean", "colour", "noise"]


@dataclass(frozen=True)
class Erasing(BatchTransform):
    """Erases a rectangle of random area and shape in a picture, after the normalisation (Zhong et al., arXiv
    1708.04896). As torchvision's RandomErasing."""

    normalised = True

    p: float = 0.5
    """Share of the pictures."""
    scale: tuple[float, float] = (0.02, 0.33)
    """Least and greatest share of the picture's area."""
    ratio: tuple[float, float] = (0.3, 3.3)
    """Least and greatest ratio of the rectangle's height to its width."""
    value: Value = "mean"
    """What is put there: the data's mean, one colour drawn from a normal distribution, or such noise for each pixel."""

    @property
    def numbers(self) -> int:
        return 2 * ATTEMPTS + 5

    def check(self) -> None:
        self.check_share("p")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise self.refuse("scale", "0 < least <= greatest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise self.refuse("ratio", "0 < least <= greatest")
        if self.value not in get_args(Value):
            raise self.refuse("value", " or ".join(get_args(Value)))

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        for sample in np.flatnonzero(drawn[:, 0] < self.p):
            found = self.part((x.shape[1], x.shape[2]), drawn[sample, 1:-2])
            if found:
                top, left, height, width = found
                x[sample, top : top + height, left : left + width] = self.put(
                    (height, width, x.shape[3]), drawn[sample, -2:]
                )
        return x

    def part(self, size: tuple[int, int], drawn: np.ndarray) -> tuple[int, int, int, int] | None:
        """Top, left, height and width, by 22 numbers in [0, 1); None where no attempt fits into the picture."""
        height, width = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area, shape in drawn[: 2 * ATTEMPTS].reshape(ATTEMPTS, 2).tolist():
            target = height * width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + shape * (high - low))
            h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if h < height and w < width:
                return int(whole(drawn[-2], height - h + 1)), int(whole(drawn[-1], width - w + 1)), h, w
        return None

    def put(self, shape: tuple[int, int, int], drawn: np.ndarray) -> np.ndarray | float:
        """The content of an erased rectangle of `shape`, (h, w, C). drawn: float64 [2] in [0, 1), the seed of noise."""
        if self.value == "mean":
            return 0.0
        words = (drawn * 2.0**32).astype(np.uint64)
        generator = np.random.Generator(np.random.Philox(key=words))
        return generator.standard_normal((1, 1, shape[2]) if self.value == "colour" else shape, np.float32)
