"""Where a step's time goes on the device."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import SIDES, Suite, learner
from ffdist.models import Chain

STEPS = 10


def kernels(suite: Suite, rows: Rows) -> None:
    """Seconds of a step, those in which the device works, and its longest kernels: [name, times a step, seconds]."""
    for name, chain in suite.networks().items():
        for side in SIDES:
            rows.row(partial(busy, suite, chain, side), name, side)


def busy(suite: Suite, chain: Chain, side: str) -> dict[str, Any]:
    step = learner(suite, chain, side)
    suite.warm(step)
    seconds = suite.batch / suite.rate(step, suite.batch)
    on_gpu = suite.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(STEPS):
            step()
        suite.wait()
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type == where and not event.is_user_annotation
    ]
    longest = [[key[:120], count / STEPS, us / 1e6 / STEPS] for us, count, key in sorted(times, reverse=True)[:15]]
    return {"step_seconds": seconds, "busy_seconds": sum(us for us, _, _ in times) / 1e6 / STEPS, "longest": longest}
