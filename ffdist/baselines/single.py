"""Backpropagation on one device."""

from __future__ import annotations

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.models import Chain


def single(chain: Chain, config: BaselineConfig, place: RankPlace) -> Learner:
    """The bare loop: forward, backward, step."""
    assert place.size == 1, "one device"
    return Replica(WholeNetwork(chain, config), config, place)
