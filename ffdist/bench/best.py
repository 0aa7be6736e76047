"""The plan that ffdist's side of a comparison takes where it is told `--plan auto`."""

from __future__ import annotations

from ffdist.bench.harness.finding import Progress
from ffdist.bench.settings import BenchSettings
from ffdist.planner.forecast import Request
from ffdist.runtime.planned import planned
from ffdist.runtime.planning import AUTO


def with_plan(settings: BenchSettings, progress: Progress, *, link: str | None = None) -> BenchSettings:
    """The same with the best plan in place of `auto`, as `ffdist plan` finds it: here, where no process is bound to
    cores of its own yet. link: between the devices; None: within this host."""
    if settings.train.plan.plan != AUTO:
        return settings
    plan = planned(settings.job(1)(), Request(settings.compare.devices, link, lanes=settings.train.training.lanes)).plan
    progress(f"plan: {plan}; lanes: {plan.lanes}")
    return settings.changed(plan=str(plan), lanes=plan.lanes)
