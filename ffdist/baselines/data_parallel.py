"""Backpropagation in parallel over slices of each batch, by torch's DistributedDataParallel."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ffdist.baselines.base import BaselineConfig, Learner, Place, Replica, Whole
from ffdist.baselines.checkpointed import Checkpointed
from ffdist.models import Chain

_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


def data_parallel(
    chain: Chain,
    config: BaselineConfig,
    place: Place,
    *,
    bucket_mib: float = 25.0,
    static_graph: bool = False,
    bucket_views: bool = False,
    sync_buffers: bool = True,
    bf16_gradients: bool = False,
    accumulate: int = 1,
    checkpoint: bool = False,
) -> Learner:
    """DDP; the defaults are torch's own.

    bucket_mib: size of the gradients that travel together. static_graph, bucket_views: torch's arguments (the latter is
        `gradient_as_bucket_view`). sync_buffers: broadcast batch norm's buffers before every forward pass.
    bf16_gradients: compress gradients to bfloat16 on their way.
    accumulate: parts of a rank's slice; gradients travel once for all. checkpoint: compute blocks again in backward.
    """
    whole = Whole(chain, config)
    sync: dict[str, Any] = {_SYNC_BUFFERS: sync_buffers}
    wrapped = DistributedDataParallel(
        Checkpointed(whole) if checkpoint else whole,
        device_ids=[config.device] if config.device.type == "cuda" else None,
        bucket_cap_mb=bucket_mib, static_graph=static_graph, gradient_as_bucket_view=bucket_views,
        **sync,
    )  # fmt: skip
    if bf16_gradients:
        # Not by its own name, by which torch refuses it where torch was built without CUDA: gloo carries bfloat16, too.
        wrapped.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
    return Replica(whole, config, place, forward=wrapped, accumulate=accumulate, hold=partial(wrapped.no_sync))
