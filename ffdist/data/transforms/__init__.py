"""What is done to pictures before a network learns from them; each by a name, or a user's own."""

from __future__ import annotations

from ffdist.data.transforms.base import BatchTransform, MixTransform, PictureTransform, Transform
from ffdist.data.transforms.load import TRANSFORMS, load_transform, load_transforms
from ffdist.data.transforms.steps import Drawn, Steps

__all__ = [
    "TRANSFORMS",
    "BatchTransform",
    "Drawn",
    "MixTransform",
    "PictureTransform",
    "Steps",
    "Transform",
    "load_transform",
    "load_transforms",
]
