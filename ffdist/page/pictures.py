"""Pictures inside a page: as data of their own, small enough for many of them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from ffdist.report.figure import as_shown

SMALL, MAX_SIDE = 64, 112
"""Pixels a side: up to SMALL a picture stays as it is, more than MAX_SIDE are scaled down."""
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""Colours from no evidence to most; each is lighter than the one before."""


def picture(values: Tensor) -> str:
    """float32 [C, H, W] of any range -> a data: address."""
    return encoded(colours(values))


def picture_with_map(values: Tensor, evidence: Tensor) -> str:
    """The picture under a map [H, W] of at least 0, from dark (none) to light (the most in it)."""
    strength = evidence.numpy().astype(np.float64)
    strength = strength / max(float(strength.max()), 1e-12)
    return encoded(0.4 * colours(values) + 0.6 * heat(strength))


def colours(values: Tensor) -> np.ndarray:
    """[C, H, W] -> float64 [H, W, 3] of 0..255; numbers that are none are black."""
    shown = np.nan_to_num(as_shown(values)) * 255.0
    return shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, 2)


def heat(strength: np.ndarray) -> np.ndarray:
    """[H, W] in 0..1 -> float64 [H, W, 3] of 0..255."""
    places = np.linspace(0.0, 1.0, len(HEAT))
    return np.stack([np.interp(strength, places, HEAT[:, channel]) for channel in range(3)], 2)


def encoded(pixels: np.ndarray) -> str:
    """float64 [H, W, 3] of 0..255: small ones to the pixel, others as a photograph."""
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    kind, options = "PNG", dict[str, int | bool](optimize=True)
    if max(image.size) > SMALL:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        kind, options = "JPEG", {"quality": 82}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
