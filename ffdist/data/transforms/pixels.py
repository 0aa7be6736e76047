"""Changes of pictures by parameters of each sample's own, on whole batches of uint8 [B, H, W, C] with C of 1 or 3.

They are torchvision's (`torchvision.transforms.v2.functional`, of tensors), in NumPy, which keeps to one thread: where
torch adds with one rounding, so do these, by float64. Formulas by name are those of its kernels.
"""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(256, dtype=np.float32)
GREY = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


def clipped(values: np.ndarray) -> np.ndarray:
    """Values as uint8: cut to 0..255, then rounded down."""
    return values.clip(0, 255).astype(np.uint8)


def fused(a: np.ndarray, b: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """a + factor * b in float32, rounded once."""
    return (a.astype(np.float64) + np.multiply(factor, b, dtype=np.float64)).astype(np.float32)


def looked_up(x: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Each pixel's entry in a table of its sample, [B, 256], or of its sample and channel, [B, C, 256]."""
    out = np.empty_like(x)
    for sample, (picture, table) in enumerate(zip(x, tables, strict=True)):
        if table.ndim == 1:
            found = picture.tobytes().translate(table.tobytes())
            out[sample] = np.frombuffer(found, np.uint8).reshape(picture.shape)
            continue
        for channel, own in enumerate(table):
            found = picture[..., channel].tobytes().translate(own.tobytes())
            out[sample, ..., channel] = np.frombuffer(found, np.uint8).reshape(picture.shape[:2])
    return out


def brightness_tables(factors: np.ndarray) -> np.ndarray:
    """uint8 [B, 256]. factors: [B], of 0 (black) and more."""
    return clipped(LEVELS * factors.astype(np.float32)[:, None])


def posterize_tables(bits: np.ndarray) -> np.ndarray:
    """uint8 [B, 256]. bits: int [B], the highest ones of 8 that are kept."""
    masks = (256 - (1 << (8 - bits))).astype(np.uint8)
    return np.arange(256, dtype=np.uint8) & masks[:, None]


def solarize_tables(thresholds: np.ndarray) -> np.ndarray:
    """uint8 [B, 256]: what is not below the threshold, float [B], is inverted."""
    levels = np.arange(256, dtype=np.uint8)
    return np.where(thresholds.astype(np.float32)[:, None] <= LEVELS, ~levels, levels)


def contrast_tables(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """uint8 [B, 256]: blended with the mean of the grey picture. factors: [B], of 0 (grey) and more."""
    sums = grey(x).astype(np.int64).sum((1, 2, 3))
    means = sums.astype(np.float32) / np.float32(x.shape[1] * x.shape[2])
    own = LEVELS * factors.astype(np.float32)[:, None]
    return clipped(fused(own, means[:, None], (1 - factors).astype(np.float32)[:, None]))


def autocontrast_tables(x: np.ndarray) -> np.ndarray:
    """uint8 [B, C, 256]: each channel's least value becomes 0, its greatest 255."""
    low, high = (part.astype(np.float32)[..., None] for part in (x.min((1, 2)), x.max((1, 2))))
    flat = low == high
    scale = (high - low) * np.float32(1 / 255)
    scale[flat], low[flat] = 1, 0
    return clipped((LEVELS - low) / scale)


def equalize_tables(x: np.ndarray) -> np.ndarray:
    """uint8 [B, C, 256]: each channel's values spread evenly, as Pillow does."""
    b, h, w, c = x.shape
    tables = np.tile(np.arange(256, dtype=np.uint8), (b, c, 1))
    for sample in range(b):
        for channel in range(c):
            counts = np.bincount(x[sample, ..., channel].ravel(), minlength=256)
            step = (h * w - counts[counts.nonzero()[0][-1]]) // 255
            if step:
                below = np.concatenate([[0], counts.cumsum()[:-1]])
                tables[sample, channel] = ((below + step // 2) // step).clip(0, 255)
                tables[sample, channel, 0] = 0
    return tables


def grey(x: np.ndarray) -> np.ndarray:
    """Luminance, float32 [B, H, W, 1], rounded down; of grey pictures themselves."""
    if x.shape[-1] == 1:
        return x.astype(np.float32)
    red, green, blue = (x[..., channel : channel + 1].astype(np.float32) for channel in range(3))
    return np.floor(fused(fused(red * GREY[0], green, GREY[1]), blue, GREY[2]))  # pyright: ignore[reportArgumentType]


def saturation(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blended with the grey picture. factors: [B], of 0 (grey) and more."""
    if x.shape[-1] == 1:
        return x
    own, others = (part.astype(np.float32)[:, None, None, None] for part in (factors, 1 - factors))
    return clipped(fused(x * own, grey(x), others))


def sharpness(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Blended with the picture smoothed by [1 1 1; 1 5 1; 1 1 1] / 13; the border stays. factors: [B]."""
    if min(x.shape[1:3]) <= 2:
        return x
    wide = x.astype(np.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    middle = wide[:, 1:-1, 1:-1]
    smooth = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * middle
    smooth = (2 * smooth + 13) // 26
    out = x.copy()
    weights = (1 - factors).astype(np.float32)[:, None, None, None]
    out[:, 1:-1, 1:-1] = clipped(fused(middle, smooth - middle, weights))
    return out


def hue(x: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The hue turned by a share of the whole circle. shifts: [B], in -0.5..0.5."""
    if x.shape[-1] == 1:
        return x
    pixels = np.moveaxis(x.astype(np.float32) / np.float32(255), -1, 0)
    red, green, _ = pixels
    high, low = pixels.max(0), pixels.min(0)
    spread = high - low
    safe = np.where(spread == 0, 1, spread)
    of_red, of_green, of_blue = (high - pixels) / safe
    turned = np.where(
        high == red, of_blue - of_green, np.where(high == green, 2 + of_red - of_blue, 4 + of_green - of_red)
    )
    turned = np.where(spread == 0, 0, turned)
    angle = np.fmod(turned / np.float32(6) + 1, 1)
    angle = np.mod(angle + shifts.astype(np.float32)[:, None, None], 1)
    share = spread / np.where(spread == 0, 1, high)
    sector = np.floor(angle * 6)
    rest = angle * 6 - sector
    sector = sector.astype(np.int32) % 6
    p, q, t = (high * part.clip(0, 1) for part in (1 - share, 1 - share * rest, 1 - share * (1 - rest)))
    channels = ((high, q, p, p, t, high), (t, high, high, q, p, p), (p, p, t, high, high, q))
    made = np.stack([np.choose(sector, channel) for channel in channels], -1)
    return (made * np.float32(255.999)).astype(np.uint8)  # as torchvision makes bytes of floats


def warp(x: np.ndarray, matrices: np.ndarray, fill: int = 0) -> np.ndarray:
    """Each output pixel is the one nearest to where its sample's matrix, float [B, 2, 3], takes it: from places
    (x, y, 1) to places (x, y), counted from the middle of the picture. What comes from outside is `fill`."""
    b, h, w, c = x.shape
    across = np.arange(w) - (w - 1) / 2
    down = (np.arange(h) - (h - 1) / 2)[:, None]
    columns, rows = (
        np.rint(m[:, 0, None, None] * across + m[:, 1, None, None] * down + m[:, 2, None, None] + middle).astype(int)
        for m, middle in ((matrices[:, 0], (w - 1) / 2), (matrices[:, 1], (h - 1) / 2))
    )
    inside = (columns >= 0) & (columns < w) & (rows >= 0) & (rows < h)
    places = np.where(inside, rows * w + columns, 0) + (np.arange(b) * (h * w))[:, None, None]
    out = np.ascontiguousarray(x).reshape(b * h * w, c)[places]
    out[~inside] = fill
    return out
