"""The steps that every sample of a data set goes through, in training and wherever else it is asked about: size and
scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ffdist.data.images import Images
from ffdist.data.transforms import PictureTransform, Transform, load_transforms
from ffdist.errors import ConfigError, setting


def as_network_input(
    images: Images,
    *,
    image_size: int | None = None,
    preprocess: Sequence[str | Transform] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Images:
    """The data set with the size and scale in which a network is to get its samples.

    image_size: the side of pictures. preprocess: what gives them their size, in place of scaling them to that.
    mean, std: one for all channels (features) or one for each, in place of the data's own; of pictures in 0..1.
    Raises ConfigError for samples that are no pictures, and for what does not fit them or each other.
    """
    if image_size is not None or preprocess:
        images = sized(images, image_size, preprocess)
    return scaled(images, mean, std) if mean or std else images


def sized(images: Images, image_size: int | None, preprocess: Sequence[str | Transform]) -> Images:
    """The data set with pictures of another size, by scaling or by the transforms of `preprocess`."""
    name = setting("dataset.preprocess" if preprocess else "dataset.image_size")
    if len(images.shape) != 3 or (not images.pixels and image_size is not None):
        kind = "whole numbers" if images.pixels else "floats"
        raise ConfigError(
            "only pictures are resized",
            where=name,
            expected="whole numbers (C, H, W)",
            got=f"{kind} {images.shape}",
            remedy="leave it out, and resize them before",
        )
    own: tuple[int, int] = images.shape[1:]  # pyright: ignore[reportAssignmentType]
    size = (image_size, image_size) if image_size is not None else own
    steps = load_transforms(preprocess, "dataset.preprocess")
    if not steps:
        return images.at(size)
    found: tuple[int, int] | None = own if images.train.one_size else None
    if found is None and images.decoding:
        images = replace(images, decoding=replace(images.decoding, size=None))  # as its pictures come to these
    for step in steps:
        if not isinstance(step, PictureTransform) or step.numbers:
            raise ConfigError(
                f"{type(step).__name__} is not for every picture",
                where=name,
                expected="transforms that give pictures their size, and draw nothing: resize, center-crop",
                got=str(step.as_call()),
                remedy=f"{setting('dataset.augment')}, for what is done in training alone",
            )
        found = step.size(found, size)
    if found is None or (image_size is not None and found != size):
        made = "pictures of several sizes" if found is None else "{} x {}".format(*found)
        raise ConfigError(
            "the pictures do not come out in the network's size",
            where=name,
            expected="{} x {}".format(*size) if image_size is not None else "one size",
            got=made,
            remedy=f"center-crop at the end of {setting('dataset.preprocess')}",
        )
    return replace(images, shape=(images.shape[0], *found), preprocess=tuple(str(step.as_call()) for step in steps))


def scaled(images: Images, mean: Sequence[float], std: Sequence[float]) -> Images:
    """The data set with a user's own mean and std; one figure stands for all channels or features."""
    channels = images.shape[0] if len(images.shape) in (1, 3) else 1
    for name, values, other in (("mean", mean, "std"), ("std", std, "mean")):
        spelled = setting(f"dataset.{name}")
        if not values:
            raise ConfigError(
                f"{spelled} is missing",
                where=f"data set {images.name}",
                expected=f"{spelled} beside {setting(f'dataset.{other}')}",
            )
        if len(values) not in (1, channels):
            raise ConfigError(
                f"{spelled} does not fit the samples",
                where=f"data set {images.name}, samples {images.shape}",
                expected=f"1 or {channels} numbers" if channels > 1 else "1 number",
                got=len(values),
            )
        if images.pixels and max(map(abs, values)) > 1:
            text = " ".join(f"{value / 255:.4g}" for value in values)
            raise ConfigError(
                f"{spelled} is of pixels in 0..1",
                where=f"data set {images.name}",
                expected="0..1",
                got=" ".join(map(str, values)),
                remedy=setting(f"dataset.{name}", text),
            )
    if min(std) <= 0:
        raise ConfigError(f"{setting('dataset.std')} is too small", expected="> 0", got=" ".join(map(str, std)))
    count = max(len(mean), len(std))
    own = [tuple(map(float, values)) * (count if len(values) == 1 else 1) for values in (mean, std)]
    return replace(images, mean=own[0], std=own[1])
