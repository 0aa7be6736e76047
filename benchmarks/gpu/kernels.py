"""The time of a step on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import profile, supported_activities

from benchmarks.gpu.suite import SIDES, Suite
from ffdist.bench.harness.resumed import Resumed
from ffdist.device import queues, synchronize
from ffdist.models import Chain

STEPS = 10
MAPS = ((32, 32), (64, 16), (128, 8), (512, 4))
"""Channels and side of maps that blocks send on."""


def kernels(suite: Suite, record: Resumed) -> None:
    """Seconds of a step, those in which the device works, and its longest kernels, in a step.

    norms: the norm of what a block sends on, there and back, as it is and over the view in which channels lie last.
    """
    for channels, side in MAPS:
        work = partial(norms, suite, channels, side)
        record.measure(work, network="norms", maps=f"{channels} x {side} x {side}")
    for name, chain in suite.networks().items():
        for side in SIDES:
            record.measure(partial(busy, suite, chain, side), network=name, side=side)


def busy(suite: Suite, chain: Chain, side: str) -> list[dict[str, Any]]:
    """Seconds of a step, seconds that the device works in it, and its longest kernels."""
    step = suite.learner(chain, side)
    seconds, on_gpu = suite.batch / suite.rate(step).median, queues(suite.device)
    with profile(activities=supported_activities()) as profiler:
        for _ in range(STEPS):
            step()
        synchronize(suite.device)
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if (event.device_type != DeviceType.CPU) == on_gpu and not event.is_user_annotation
    ]
    longest = [
        {"kernel": key[:120], "calls": count / STEPS, "time": us / 1e6 / STEPS}
        for us, count, key in sorted(times, reverse=True)[:15]
    ]
    return [{"kernel": "", "time": seconds, "busy": sum(us for us, _, _ in times) / 1e6 / STEPS}, *longest]


class ViewNorm(nn.GroupNorm):
    """`GroupNorm(1, C)` of a channels-last map, as a layer norm over its memory: no kernel asks for another order."""

    def forward(self, input: Tensor) -> Tensor:
        flat = input.permute(0, 2, 3, 1)
        normed = F.layer_norm(flat.flatten(1), (flat[0].numel(),), eps=self.eps).view_as(flat)
        return torch.addcmul(self.bias, normed, self.weight).permute(0, 3, 1, 2)


def norms(suite: Suite, channels: int, side: int) -> list[dict[str, Any]]:
    """Time the norms on a batch of maps in bfloat16: seconds of each norm and of its gradients, in turns."""
    shape = (suite.batch, channels, side, side)
    maps = torch.randn(shape, device=suite.device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    sides = {
        name: there_and_back(norm(1, channels).to(suite.device), maps)
        for name, norm in (("as it is", nn.GroupNorm), ("over the view", ViewNorm))
    }
    rounds = suite.turns(sides)
    return [{"side": name, "time": suite.batch / rounds.rate(name).median} for name in sides]


def there_and_back(norm: nn.Module, maps: Tensor) -> Callable[[], object]:
    """A step: what the next convolution would take of the norm, and the gradients that come back."""
    taken, back = maps.clone().requires_grad_(), torch.randn_like(maps)

    def step() -> None:
        with torch.autocast(maps.device.type, torch.bfloat16):
            out = norm(taken)
        out.to(torch.bfloat16, memory_format=torch.channels_last).backward(back)
        taken.grad = None

    return step
