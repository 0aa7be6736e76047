"""Random crops and flips of a whole batch at once.

The draws of a batch come first and for all of its samples, then each rank cuts out its own: a sharded batch is
augmented exactly as the whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ffdist.errors import ConfigError

AUGMENTATIONS = ("crop", "flip")


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for each sample of a batch."""

    top: np.ndarray | None
    """int [B], in 0..2 * margin: where the crop starts; None without crops."""
    left: np.ndarray | None
    flip: np.ndarray | None
    """bool [B]; None without flips."""

    def __getitem__(self, part: slice) -> Draws:
        return Draws(*(None if d is None else d[part] for d in (self.top, self.left, self.flip)))


def check_augmentations(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not known."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise ConfigError("unknown augmentation", expected=" or ".join(AUGMENTATIONS), got=name)


def margin(side: int) -> int:
    """Pixels of black around a picture before a random crop: an eighth of its side, so 4 for 32 (the habit) and 28."""
    return -(-side // 8)


def draw(names: Sequence[str], samples: int, size: tuple[int, int], generator: np.random.Generator) -> Draws:
    """The draws for so many samples of height, width `size`."""
    top, left = (generator.integers(0, 2 * margin(side) + 1, samples) if "crop" in names else None for side in size)
    return Draws(top, left, generator.random(samples) < 0.5 if "flip" in names else None)


def augment(x_bhwc: np.ndarray, draws: Draws) -> np.ndarray:
    """x_bhwc: any dtype, contiguous [B, H, W, C], with draws for B samples; the result may reuse its memory."""
    if draws.top is not None and draws.left is not None:
        x_bhwc = crop(x_bhwc, draws.top, draws.left)
    return x_bhwc if draws.flip is None else flip(x_bhwc, draws.flip)


def crop(x_bhwc: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Sample b of the padded batch, from row top[b] and column left[b] on."""
    b, h, w, c = x_bhwc.shape
    y, x = margin(h), margin(w)
    padded = np.zeros((b, h + 2 * y, w + 2 * x, c), x_bhwc.dtype)
    padded[:, y : y + h, x : x + w] = x_bhwc
    # pixels of one row lie side by side, so a window is h runs of w * c numbers
    windows = sliding_window_view(padded.reshape(b, h + 2 * y, (w + 2 * x) * c), (h, w * c), axis=(1, 2))  # pyright: ignore
    return windows[np.arange(b), top, left * c].reshape(b, h, w, c)


def flip(x_bhwc: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrors, in place, the samples where mirrored [B] is true."""
    pixels = x_bhwc.view(f"V{x_bhwc.shape[-1] * x_bhwc.itemsize}")[..., 0]  # one item a pixel: twice as fast
    pixels[mirrored] = pixels[mirrored][:, :, ::-1]
    return x_bhwc
