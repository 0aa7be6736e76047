"""The plan that ffdist's side of a comparison takes under `--plan auto`."""

from __future__ import annotations

from ffdist.bench.harness.result import Progress
from ffdist.bench.settings import BenchSettings
from ffdist.bench.weighed import baseline_memory, worst
from ffdist.errors import ConfigError, setting
from ffdist.planner.cluster import parse_bytes
from ffdist.planner.forecast import Request
from ffdist.runtime.planned import planned
from ffdist.runtime.planning import AUTO

LEAN = "ddp-views"
"""The tuning of DDP that holds the least: its gradients lie in the buckets that are exchanged."""


def with_plan(settings: BenchSettings, progress: Progress, *, link: str | None = None) -> BenchSettings:
    """The settings with the best plan in place of `auto`, as `ffdist plan` finds it.

    It is searched in this process, which is not bound to cores yet. link: the rate between the devices; None: all are
    in this host. Raises ConfigError for a memory limit that cannot be read, that no plan keeps to, or that comes with a
    given plan.
    """
    limit = settings.compare.memory_limit
    if settings.train.plan.plan != AUTO:
        if limit is not None:
            raise ConfigError(
                f"{setting('compare.memory_limit')} is what a plan is searched under",
                where="ffdist bench",
                expected=setting("plan.plan", AUTO),
                got=settings.train.plan.plan or "a pipeline of stages",
            )
        return settings
    lanes = settings.train.training.lanes
    request = Request(settings.compare.devices, link, limit and limit_bytes(settings, progress), lanes=lanes)
    plan = planned(settings.job(1)(), request).plan
    progress(f"plan: {plan}; lanes: {plan.lanes}")
    return settings.changed(plan=str(plan), lanes=plan.lanes, memory_limit=limit and f"{request.memory_limit:.0f}B")


def limit_bytes(settings: BenchSettings, progress: Progress) -> float:
    """The settings' memory limit in bytes; a share is taken of what a device of DDP holds, which is measured now."""
    text = settings.compare.memory_limit or ""
    share = share_of(text)
    if share is None:
        return parse_bytes(text)
    progress(f"weighing {LEAN}")
    held = worst(baseline_memory(settings.changed(plan=None, memory_limit=None), LEAN)).peak
    progress(f"memory limit: {share:g} of {held / 2**20:.1f} MiB")
    return share * held


def share_of(text: str) -> float | None:
    """The fraction that "0.6" or "60%" means; None for a size. Raises ConfigError for a share out of range."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        return None
    if not 0 < share < float("inf"):
        raise ConfigError(
            "a memory limit is a size, or a share of what DDP holds",
            where=setting("compare.memory_limit"),
            expected="60MiB, 0.6 or 60%",
            got=text,
        )
    return share
