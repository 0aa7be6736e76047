"""Convolutions that begin by passing their inputs on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ffdist.errors import ConfigError, setting
from ffdist.models.chain import Chain, _Given


def with_dirac(chain: Chain) -> Chain:
    """The same chain, whose blocks' learned convolutions of more than one pixel begin by passing as many inputs on as
    they have outputs (Zagoruyko and Komodakis, 2017, arXiv 1706.00388; as in airbench); further outputs stay random.

    Raises ConfigError for a network that was given with weights of its own.
    """
    if chain.origin or any(isinstance(build, _Given) for build in chain.builders):
        raise ConfigError(
            "the network was given with weights of its own",
            where=setting("network.dirac"),
            expected="a network that is built anew, by its name or its function",
            remedy="nn.init.dirac_(layer.weight) before it is passed in",
        )
    result = Chain(
        zip(chain.names, map(_Dirac, chain.builders), strict=True),
        input_shape=chain.input_shape,
        num_classes=chain.num_classes,
        classifier=chain.build_classifier,
        origin=chain.origin,
        axes=chain.axes,
    )
    result.joined, result.recipe = chain.joined, chain.recipe
    return result


class _Dirac:
    """A builder of a block that then sets its convolutions; a class, so that a chain can be sent to another process."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build

    @torch.no_grad()
    def __call__(self) -> nn.Module:
        block = self.build()
        for layer in block.modules():
            if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or set(layer.kernel_size) == {1}:
                continue
            for filters in layer.weight.chunk(layer.groups) if layer.weight.requires_grad else ():
                nn.init.dirac_(filters[: filters.shape[1]])
        return block
