"""Random crops, shifts, flips and cut-outs of a whole batch at once.

The draws of a batch come first and for all of its samples, then each rank cuts out its own: a sharded batch is
augmented exactly as the whole one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SHIFT = 2
"""Pixels of a shift, at most."""


@dataclass(frozen=True, slots=True)
class AugmentDraws:
    """The random numbers drawn for each sample of a batch."""

    top: np.ndarray | None
    """int [B], in 0..2 * margin: where the crop starts; None without crops."""
    left: np.ndarray | None
    flip: np.ndarray | None
    """bool [B]; None without flips."""
    hole_top: np.ndarray | None = None
    """int [B]: where a hole of a quarter of the side starts; None without holes."""
    hole_left: np.ndarray | None = None
    shift: bool = False
    """Whether the margin of the crop is a reflection of two pixels, and not black."""

    def __getitem__(self, part: slice | np.ndarray) -> AugmentDraws:
        drawn = (self.top, self.left, self.flip, self.hole_top, self.hole_left)
        return AugmentDraws(*(None if d is None else d[part] for d in drawn), shift=self.shift)

    @classmethod
    def joined(cls, draws: Sequence[AugmentDraws]) -> AugmentDraws:
        """The draws of several batches, one after the other."""
        if len(draws) == 1:
            return draws[0]
        columns = zip(*((d.top, d.left, d.flip, d.hole_top, d.hole_left) for d in draws), strict=True)
        made = [None if column[0] is None else np.concatenate(column) for column in columns]  # pyright: ignore
        return cls(*made, shift=draws[0].shift)

    def only(self, names: Collection[str]) -> AugmentDraws:
        """The draws for the named transforms alone; those for others are None."""
        crops, flips = {"crop", "shift"}.intersection(names), {"flip", "alternate"}.intersection(names)
        holes = "cutout" in names
        return AugmentDraws(
            self.top if crops else None,
            self.left if crops else None,
            self.flip if flips else None,
            self.hole_top if holes else None,
            self.hole_left if holes else None,
            shift=self.shift,
        )


def margin(side: int) -> int:
    """Pixels of black around a picture before a random crop: an eighth of its side, so 4 for 32 (the habit) and 28."""
    return -(-side // 8)


def draw(
    names: Sequence[str],
    samples: int,
    size: tuple[int, int],
    generator: np.random.Generator,
    mirrored: np.ndarray | None = None,
) -> AugmentDraws:
    """The draws for so many samples of height, width `size`.

    mirrored: bool [samples], for "alternate", which draws nothing: whether each is mirrored in this epoch.
    """
    shift = "shift" in names
    crops = shift or "crop" in names
    margins = [SHIFT if shift else margin(side) for side in size]
    top, left = (generator.integers(0, 2 * edge + 1, samples) if crops else None for edge in margins)
    flipped = generator.random(samples) < 0.5 if "flip" in names else None
    holes = [generator.integers(0, side - hole(side) + 1, samples) if "cutout" in names else None for side in size]
    return AugmentDraws(top, left, mirrored if "alternate" in names else flipped, *holes, shift=shift)


def hole(side: int) -> int:
    """Pixels of a cut-out: a quarter of the side."""
    return max(1, side // 4)


def augment(x_bhwc: np.ndarray, draws: AugmentDraws) -> np.ndarray:
    """Apply the draws of B samples: crop, then flip, then hole.

    x_bhwc: any dtype, contiguous [B, H, W, C]; the result has its shape, and may reuse its memory.
    """
    if draws.top is not None and draws.left is not None:
        x_bhwc = crop(x_bhwc, draws.top, draws.left, shift=draws.shift)
    if draws.flip is not None:
        x_bhwc = flip(x_bhwc, draws.flip)
    if draws.hole_top is not None and draws.hole_left is not None:
        x_bhwc = cut_out(x_bhwc, draws.hole_top, draws.hole_left)
    return x_bhwc


def crop(x_bhwc: np.ndarray, top: np.ndarray, left: np.ndarray, *, shift: bool = False) -> np.ndarray:
    """Sample b of the padded batch, from row top[b] and column left[b] on."""
    b, h, w, c = x_bhwc.shape
    y, x = (SHIFT, SHIFT) if shift else (margin(h), margin(w))
    if shift:
        padded = np.pad(x_bhwc, ((0, 0), (y, y), (x, x), (0, 0)), mode="reflect")
    else:
        padded = np.zeros((b, h + 2 * y, w + 2 * x, c), x_bhwc.dtype)
        padded[:, y : y + h, x : x + w] = x_bhwc
    # pixels of one row lie side by side, so a window is h runs of w * c numbers
    windows = sliding_window_view(padded.reshape(b, h + 2 * y, (w + 2 * x) * c), (h, w * c), axis=(1, 2))  # pyright: ignore
    return windows[np.arange(b), top, left * c].reshape(b, h, w, c)


def cut_out(x_bhwc: np.ndarray, top: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Blackens, in place, a hole in each sample (DeVries and Taylor, 2017)."""
    _, h, w, _ = x_bhwc.shape
    rows, columns = np.arange(h), np.arange(w)
    inside_rows = (rows >= top[:, None]) & (rows < top[:, None] + hole(h))
    inside_columns = (columns >= left[:, None]) & (columns < left[:, None] + hole(w))
    x_bhwc[inside_rows[:, :, None] & inside_columns[:, None, :]] = 0
    return x_bhwc


def flip(x_bhwc: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrors, in place, the samples where mirrored [B] is true."""
    pixels = x_bhwc.view(f"V{x_bhwc.shape[-1] * x_bhwc.itemsize}")[..., 0]  # one item a pixel: twice as fast
    pixels[mirrored] = pixels[mirrored][:, :, ::-1]
    return x_bhwc
