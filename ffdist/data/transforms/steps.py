"""All that is done to the samples of a split, in order: each picture to its size, then batches, then mixing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ffdist.data.transforms.base import BatchTransform, MixTransform, PictureTransform, Size, Transform
from ffdist.data.transforms.draws import Draws


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for the samples of a batch, or of a part of it."""

    pictures: list[np.ndarray]
    """For each picture transform float64 [B, numbers]."""
    batches: list[np.ndarray]
    mixes: list[np.ndarray]

    def of(self, sample: int) -> list[np.ndarray]:
        """For one sample's picture: float64 [numbers] of each picture transform."""
        return [drawn[sample] for drawn in self.pictures]


class Steps:
    """The transforms of a split for pictures of one network.

    steps = Steps(transforms, seed=0, wanted=(224, 224))
    drawn = steps.draw(epoch, rows)                         # once a batch, for its samples
    pictures = [steps.picture(p, drawn.of(i)) for i, p in enumerate(decoded)]   # by any worker, in any order
    x = steps.batch(np.stack(pictures), drawn)              # [B, H, W, C] of one size
    x = steps.behind(normalised(x), drawn)                  # float32
    """

    def __init__(self, transforms: Sequence[Transform], *, seed: int, wanted: Size) -> None:
        """wanted: height and width of what the network takes."""
        self.wanted = wanted
        self.pictures = [t for t in transforms if isinstance(t, PictureTransform)]
        self.batches = [t for t in transforms if isinstance(t, BatchTransform) and not t.normalised]
        self.normalised = [t for t in transforms if isinstance(t, BatchTransform) and t.normalised]
        self.mixes = [t for t in transforms if isinstance(t, MixTransform)]
        self.all: list[Transform] = [*self.pictures, *self.batches, *self.normalised, *self.mixes]
        self.draws = Draws(seed, [*purposes(self.all), *([("mix", 1)] if len(self.mixes) > 1 else [])])

    def draw(self, epoch: int, rows: np.ndarray) -> Drawn:
        """rows: int [B], the samples' places in the split."""
        drawn = self.draws.uniform(epoch, rows)
        first, second = len(self.pictures), len(self.pictures) + len(self.batches) + len(self.normalised)
        return Drawn(drawn[:first], drawn[first:second], drawn[second:])

    def picture(self, picture: np.ndarray, drawn: Sequence[np.ndarray] = ()) -> np.ndarray:
        """One decoded picture [H, W, C] of any size -> [h, w, C]. drawn: `Drawn.of` its sample."""
        for transform, numbers in zip(self.pictures, drawn or [NONE] * len(self.pictures), strict=True):
            picture = transform.picture(picture, numbers, self.wanted)
        return picture

    def batch(self, x: np.ndarray, drawn: Drawn) -> np.ndarray:
        """Contiguous [B, H, W, C] before the normalisation; its memory may be used again."""
        for transform, numbers in zip(self.batches, drawn.batches, strict=False):
            x = transform.batch(np.ascontiguousarray(x), numbers)
        return x

    def behind(self, x: np.ndarray, drawn: Drawn) -> np.ndarray:
        """float32 [B, H, W, C] behind the normalisation; its memory may be used again."""
        for transform, numbers in zip(self.normalised, drawn.batches[len(self.batches) :], strict=True):
            x = transform.batch(x, numbers)
        return x


NONE = np.zeros(0)


def purposes(transforms: Iterable[Transform]) -> list[tuple[str, int]]:
    """What each draws for: its class, and which of several of one class it is, so that others beside it play no
    part."""
    seen: dict[str, int] = {}
    told = []
    for transform in transforms:
        name = getattr(transform, "purpose", type(transform).__qualname__)
        seen[name] = seen.get(name, -1) + 1
        told.append((f"{name} {seen[name]}", transform.numbers))
    return told
