"""A plain multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import nn

from ffdist.models.chain import Chain


def _layer(in_features: int, out_features: int, *, flatten: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    return nn.Sequential(*layers, nn.Linear(in_features, out_features), nn.ReLU())


def mlp(input_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (2000, 2000, 2000, 2000)) -> Chain:
    """A block a layer, linear and ReLU; pictures are flattened first. The default is Hinton's 4 x 2000."""
    features = [math.prod(input_shape), *widths]
    blocks = [
        (f"linear{i + 1}", partial(_layer, features[i], features[i + 1], flatten=i == 0 and len(input_shape) > 1))
        for i in range(len(widths))
    ]
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes)
