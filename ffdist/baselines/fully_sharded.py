"""Backpropagation with weights, gradients and optimiser sharded over the ranks, by torch's FSDP2."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.errors import ConfigError, setting
from ffdist.models import Chain
from ffdist.pipeline.optim import NORMS

SHARDS_ON_CPUS = hasattr(torch.cpu.Stream, "record_event")
"""torch 2.6 does not: its FSDP2 asks the streams that stand in for a GPU's for an event, and they have none."""


def fully_sharded(
    chain: Chain, config: BaselineConfig, place: RankPlace, *, bf16: bool = False, reshard: bool = True
) -> Learner:
    """FSDP2, `fully_shard` on each block.

    bf16: weights are gathered, and gradients reduced, as bfloat16; but for the norms'.
    reshard: what was gathered for a block's forward pass is freed, and gathered anew for its backward pass.

    Raises ConfigError for an optimiser but Adam, for averaged weights, for bf16 in a run of float32, and on a CPU for a
    torch that can shard on GPUs alone.
    """
    optim = config.settings.optim
    if optim.optimizer not in ("adamw", "adam") or optim.ema is not None:
        raise ConfigError(
            "only Adam's weights are sharded: torch's fused SGD cannot be, and Muon wants whole matrices",
            where="fsdp",
            expected=f"adamw or adam, without {setting('optim.ema')}",
            got=optim.optimizer if optim.ema is None else setting("optim.ema", optim.ema),
        )
    if bf16 and config.settings.compute.precision != "bf16":
        raise ConfigError(
            "a run of float32 gathers float32",
            where="fsdp-bf16",
            expected=setting("compute.precision", "bf16"),
            got=config.settings.compute.precision,
        )
    if config.device.type == "cpu" and not SHARDS_ON_CPUS:
        raise ConfigError(
            "this torch shards on GPUs alone",
            where="fsdp",
            expected="a newer torch, or GPUs",
            got=f"torch {torch.__version__} on a CPU",
            remedy="a newer torch, with the torchvision that goes with it; or another side: --against ddp",
        )
    policy = MixedPrecisionPolicy(torch.bfloat16, cast_forward_inputs=False) if bf16 else MixedPrecisionPolicy()
    whole = WholeNetwork(chain, config).to(memory_format=torch.contiguous_format)  # it shards nothing else
    mesh = init_device_mesh(config.device.type, (place.size,))
    for block in whole.blocks:
        norms: list[nn.Module] = [part for part in block.modules() if isinstance(part, NORMS)]
        if bf16 and norms:  # batch norm's weights have the type of its statistics
            fully_shard(norms, mesh=mesh, reshard_after_forward=reshard)
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    fully_shard(whole, mesh=mesh, mp_policy=policy)
    return Replica(whole, config, place)
