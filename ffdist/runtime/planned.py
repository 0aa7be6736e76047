"""The forecast of a job on other numbers of devices, before it runs."""

from __future__ import annotations

import torch

from ffdist.errors import ConfigError, setting
from ffdist.planner.forecast import Forecast, Request, forecast, profiled
from ffdist.runtime.allocator import freed_memory_kept
from ffdist.runtime.job import Job
from ffdist.runtime.planning import AUTO, given_plan
from ffdist.runtime.worker import set_threads, stage_device
from ffdist.runtime.world import World


def planned(job: Job, request: Request) -> Forecast:
    """Measures what has not been measured before, with the threads that a worker of so many would have here.

    Raises ConfigError for a plan that is none of this network's, for what is no link, size or speed, and where nothing
    keeps to the memory limit.
    """
    if job.settings.rule.objective == "backprop":
        raise ConfigError(
            "backpropagation's twin is one block: there is nothing to plan",
            where=setting("rule.objective", "backprop"),
            expected="a local rule",
            remedy="a plan of a local rule tells what DDP and 1F1B would do beside it",
        )
    lanes = request.lanes if request.lanes is not None else job.settings.training.lanes
    given = given_plan(request.plan, job.names, lanes) if request.plan not in (None, AUTO) else None
    job.settings.changed(lanes=given.lanes if given else lanes)  # refused here as a run of so many would be
    before = torch.get_num_threads()
    try:
        set_threads(job.settings.compute.threads, World(size=request.devices))
        device = stage_device(job.settings.compute.device, World())
        with freed_memory_kept():
            profile, cluster = profiled(job.chain, job.objective, job.settings, job.loaders().train, request, device)
    finally:
        torch.set_num_threads(before)
    return forecast(profile, cluster, lanes=lanes, plan=given)
