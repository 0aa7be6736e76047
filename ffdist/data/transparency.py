"""Pictures that one can see through, and what they are laid over."""

from __future__ import annotations

from PIL import Image

BAND = 2**20
"""Pixels composed at once: what a large picture needs beside itself and its result."""


def has_transparency(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info or palette.endswith("A")


def laid_over(image: Image.Image, background: str, mode: str) -> Image.Image:
    """A picture of 8 bits on a background of one colour; mode: "L" or "RGB"."""
    width, height = image.size
    out = Image.new(mode, image.size)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        if part.mode == "La":  # from which Pillow knows one way only
            part = part.convert("LA")
        under = Image.new("RGBA", part.size, background)
        out.paste(Image.alpha_composite(under, part.convert("RGBA")).convert(mode), (0, top))
    return out
