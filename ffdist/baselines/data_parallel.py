"""Backpropagation in parallel over slices of each batch, by torch's DistributedDataParallel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, Replica, WholeNetwork
from ffdist.baselines.checkpointed import Checkpointed
from ffdist.device import queues
from ffdist.models import Chain

_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


def data_parallel(
    chain: Chain,
    config: BaselineConfig,
    place: RankPlace,
    *,
    bucket_mib: float = 25.0,
    static_graph: bool = False,
    bucket_views: bool = False,
    sync_buffers: bool = True,
    compress: Literal["bf16", "power-sgd"] | None = None,
    accumulate: int = 1,
    checkpoint: bool = False,
) -> Learner:
    """DDP; the defaults are torch's own.

    bucket_mib: size of the gradients that travel together. static_graph, bucket_views: torch's arguments (the latter is
        `gradient_as_bucket_view`). sync_buffers: broadcast batch norm's buffers before every forward pass.
    compress: how gradients travel. bf16: rounded to bfloat16. power-sgd: as matrices of rank 2 in their place, with
        error feedback, from the third batch on (PowerSGD, arXiv 1905.13727), which learns otherwise than
        backpropagation.
    accumulate: parts of a rank's slice; gradients travel once for all. checkpoint: compute blocks again in backward.
    """
    whole = WholeNetwork(chain, config)
    sync: dict[str, Any] = {_SYNC_BUFFERS: sync_buffers}
    wrapped = DistributedDataParallel(
        Checkpointed(whole) if checkpoint else whole,
        device_ids=[config.device] if queues(config.device) else None,
        bucket_cap_mb=bucket_mib,
        static_graph=static_graph,
        gradient_as_bucket_view=bucket_views,
        **sync,
    )
    if compress == "bf16":
        # Not by its own name, by which torch refuses it where torch was built without CUDA: gloo carries bfloat16, too.
        wrapped.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
    if compress == "power-sgd":
        epsilon: Any = 1e-8  # which torch calls an int
        state = PowerSGDState(
            None, matrix_approximation_rank=2, start_powerSGD_iter=2, orthogonalization_epsilon=epsilon
        )
        ordered = in_order(powerSGD_hook)
        wrapped.register_comm_hook(state, lambda state, bucket: ordered(state, bucket))  # torch reads annotations
    return Replica(whole, config, place, forward=wrapped, accumulate=accumulate, hold=partial(wrapped.no_sync))


Hook = Callable[[Any, GradBucket], Future[Tensor]]


def in_order(hook: Hook) -> Hook:
    """`hook`, begun for a bucket when the one before has arrived.

    A hook of several all-reduces begins the later ones when the first has come; those of two buckets could pass each
    other on one rank and not on the other, and gloo tells collectives apart by their order alone.
    """
    under_way: list[Future[Tensor]] = []

    def begin(state: Any, bucket: GradBucket) -> Future[Tensor]:
        for before in under_way:
            before.wait()
        under_way[:] = [hook(state, bucket)]
        return under_way[0]

    return begin
