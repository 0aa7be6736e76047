"""Activation checkpointing: keep a block's input only, and compute the block again in the backward pass."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.models import Chain


class Checkpointed(nn.Module):
    """The whole network, each block checkpointed; batch norm's running statistics then move twice a batch."""

    def __init__(self, whole: WholeNetwork) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        *blocks, classifier = self.whole.blocks
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return classifier(x)


def checkpointed(chain: Chain, config: BaselineConfig, place: RankPlace) -> Learner:
    """One device, each block checkpointed."""
    assert place.size == 1, "one device"
    whole = WholeNetwork(chain, config)
    return Replica(whole, config, place, forward=Checkpointed(whole))
