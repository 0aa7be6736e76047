"""Transforms of pictures before a network learns from them; each by a name, or a user's own."""

from __future__ import annotations

from ffdist.data.transforms.base import BatchTransform, MixTransform, PictureTransform, Transform
from ffdist.data.transforms.load import TRANSFORMS, load_transform, load_transforms
from ffdist.data.transforms.steps import StepDraws, TransformSteps

__all__ = [
    "TRANSFORMS",
    "BatchTransform",
    "MixTransform",
    "PictureTransform",
    "StepDraws",
    "Transform",
    "TransformSteps",
    "load_transform",
    "load_transforms",
]
