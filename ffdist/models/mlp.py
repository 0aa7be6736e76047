"""A plain multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain
from ffdist.models.parts import check_widths


def _layer(in_features: int, out_features: int, *, flatten: bool, init: str) -> nn.Module:
    linear = nn.Linear(in_features, out_features)
    if init != "torch":
        std = math.sqrt(2 / in_features) if init == "he" else math.sqrt(1 / out_features)
        nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*([nn.Flatten()] if flatten else []), linear, nn.ReLU())


@checked_arguments
def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    widths: Sequence[int] = (2000, 2000, 2000, 2000),
    init: Literal["torch", "he", "fan-out"] = "torch",
) -> Chain:
    """A block a layer, linear and ReLU; pictures are flattened first. The default is Hinton's 4 x 2000.

    widths: features of each layer.
    init: how weights begin, with zero biases: torch's own (biases too); "he", N(0, 2 / fan_in), with which Hinton's
        goodness starts at its threshold; "fan-out", N(0, 1 / fan_out), as in loweX/Forward-Forward.
    """
    check_widths("mlp", widths)
    features = [math.prod(input_shape), *widths]
    blocks = [
        (f"linear{i + 1}", partial(_layer, *features[i : i + 2], flatten=i == 0 and len(input_shape) > 1, init=init))
        for i in range(len(widths))
    ]
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes)
