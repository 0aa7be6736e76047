"""Batch norm whose statistics are those of all lanes of a batch.

Each lane's count, mean and squared deviations are put together in the fixed tree over the lanes (Chan, Golub and
LeVeque, 1983), in double precision; so every plan has the same, to the bit. The running statistics take them once a
batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase

from ffdist.errors import NetworkError
from ffdist.pipeline.lockstep import LANE, Lane
from ffdist.pipeline.tree import total


def synchronise(parts: nn.Module) -> list[str]:
    """Every batch norm among them meets the other lanes where lanes run in lockstep; the names of what it keeps.

    Raises NetworkError for other norms with running statistics: they would take in some lanes, and not others.
    """
    names = []
    for prefix, module in parts.named_modules():
        if isinstance(module, NormBase) and not isinstance(module, BatchNorm) and module.track_running_stats:
            raise NetworkError(
                "only batch norm's statistics are synchronised",
                where=prefix,
                expected="no running statistics of other norms",
                got=type(module).__name__,
                remedy="track_running_stats=False",
            )
        if isinstance(module, BatchNorm):
            setattr(module, "forward", partial(forward, module, module.forward))  # noqa: B010 - a method's place
            names += [f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers(recurse=False)]
    return names


def forward(norm: BatchNorm, alone: Any, x: Tensor) -> Tensor:
    """Forward in place of the module's own `alone`."""
    lane = LANE.get()
    if lane is None or not (norm.training or norm.running_mean is None):
        return alone(x)
    out, mean, var, count = SyncedNormFunction.apply(x, norm.weight, norm.bias, norm.eps, lane)
    if lane.leads and norm.training and norm.running_mean is not None:
        take(norm, mean, var, float(count))
    return out


@torch.no_grad()
def take(norm: BatchNorm, mean: Tensor, var: Tensor, count: float) -> None:
    """Take a batch's statistics into the running ones, as torch does."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    part = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = var * (count / max(1.0, count - 1))
    norm.running_mean.mul_(1 - part).add_(mean.to(norm.running_mean.dtype), alpha=part)
    norm.running_var.mul_(1 - part).add_(unbiased.to(norm.running_var.dtype), alpha=part)


class SyncedNormFunction(torch.autograd.Function):
    """x [N, C, ...] -> the same shape, and mean [C], variance [C], count []."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, lane: Lane[Any]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # as torch's own batch norm: statistics of short types in float32
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        dims = [dim for dim in range(x.dim()) if dim != 1]
        var, mean = torch.var_mean(wide, dims, correction=0)
        count = torch.full_like(mean, x.numel() // x.shape[1], dtype=torch.float64)
        # joined in float64: a lane's part of the variance is a difference of means, which loses digits in float32
        own = torch.stack([count, mean.double(), var.double() * count])
        every = {(n, n + 1): value for n, value in lane.meet(own).items()}
        found = total(every, (0, 1 + max(n for n, _ in every)), merge_statistics)
        assert found is not None
        total_count, mean, var = found[0], found[1], found[2] / found[0]
        mean, scale = mean.to(wide.dtype), (var + eps).rsqrt().to(wide.dtype)
        normed = (wide - per_channel(mean, x)) * per_channel(scale, x)
        out = normed if weight is None else normed * per_channel(weight, x)
        out = out if bias is None else out + per_channel(bias, x)
        ctx.save_for_backward(x, weight, mean, scale, total_count)
        ctx.lane, ctx.dims = lane, dims
        # they go to the running statistics alone, through which no gradient goes
        ctx.mark_non_differentiable(statistics := mean, var, count_now := total_count[0])
        return out.to(x.dtype), statistics, var, count_now

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = gradients[0].to(mean.dtype)
        normed = (x.to(mean.dtype) - per_channel(mean, x)) * per_channel(scale, x)
        own = torch.stack([grad.sum(ctx.dims), (grad * normed).sum(ctx.dims)])
        lane = LANE.get() or ctx.lane  # a GPU's part of the backward pass runs in a thread of autograd's
        every = {(n, n + 1): value.double() for n, value in lane.meet(own).items()}
        sums = total(every, (0, 1 + max(n for n, _ in every)), torch.add)
        assert sums is not None
        # the gradient of batch norm, with both means over all lanes; a weight's is this lane's, and lanes add up later
        by_mean, by_scale = (per_channel((part / count).to(mean.dtype), x) for part in sums)
        inner = (grad - by_mean - normed * by_scale) * per_channel(scale, x)
        inner = inner if weight is None else inner * per_channel(weight, x)
        of_weight = own[1].to(weight.dtype) if weight is not None else None
        of_bias = own[0].to(weight.dtype) if weight is not None else None
        return inner.to(x.dtype), of_weight, of_bias, None, None


def merge_statistics(one: Tensor, other: Tensor) -> Tensor:
    """Counts, means and squared deviations [3, C] of two sets as those of both."""
    count = one[0] + other[0]
    apart = other[1] - one[1]
    mean = one[1] + apart * (other[0] / count)
    return torch.stack([count, mean, one[2] + other[2] + apart.square() * (one[0] * other[0] / count)])


def per_channel(value: Tensor, x: Tensor) -> Tensor:
    """[C] as [1, C, 1, ...] beside x."""
    return value.view(1, -1, *[1] * (x.dim() - 2))
