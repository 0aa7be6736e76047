"""Layers whose weights are made of the training samples before a run starts."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ffdist.data import Loader

SAMPLES = 5000
"""At most so many of the first training samples are looked at."""


@runtime_checkable
class LearnsFromData(Protocol):
    """A layer that is made of data: the first one of a network, which gets the samples themselves."""

    def learn_from(self, x: Tensor, /) -> None:
        """x: float32 samples as the network gets them, [N, *input_shape]."""
        ...


def make_from_data(block: nn.Module, train: Loader) -> None:
    """Show the first training samples, in the order of the split and as they are, to what in a network's first block is
    made of data. Draws no random number: a run that starts anew has the same weights."""
    layers = [layer for layer in block.modules() if isinstance(layer, LearnsFromData)]
    if layers:
        x = train.first(SAMPLES)
        for layer in layers:
            layer.learn_from(x)
