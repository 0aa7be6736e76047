"""Backpropagation with weights, gradients and optimiser sharded over the ranks, by torch's FSDP2."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ffdist.baselines.base import BaselineConfig, Learner, Place, Replica, Whole
from ffdist.errors import ConfigError
from ffdist.models import Chain


def fully_sharded(chain: Chain, config: BaselineConfig, place: Place) -> Learner:
    """FSDP2, `fully_shard` on each block: gathered for its forward and its backward pass, freed between.

    Raises ConfigError for SGD, whose fused form torch cannot shard.
    """
    if config.optim.optimizer == "sgd":
        raise ConfigError("torch's fused SGD cannot be sharded", where="fsdp", expected="adamw or adam", got="sgd")
    whole = Whole(chain, config).to(memory_format=torch.contiguous_format)  # it shards nothing else
    mesh = init_device_mesh(config.device.type, (place.size,))
    for block in whole.blocks:
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(whole, mesh=mesh)
    return Replica(whole, config, place)
