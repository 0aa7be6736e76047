"""The forecast of a network on a cluster: the best plan, plain ones, and backpropagation beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from statistics import median
from typing import Any, NamedTuple

import torch

from ffdist.cores import available_cores
from ffdist.data import Loader
from ffdist.device import CPU, queues
from ffdist.errors import ConfigError, setting
from ffdist.models import Chain
from ffdist.objectives import Objective
from ffdist.plan import Plan
from ffdist.planner.by_batch import best_by_batch
from ffdist.planner.cached import links_here, profile_of
from ffdist.planner.cluster import Cluster, ExchangeCost, NetworkLink, parse_bytes, parse_link
from ffdist.planner.plan_search import PlanSearch
from ffdist.planner.price import Price, numbered, price
from ffdist.planner.profile import Profile
from ffdist.planner.schedules import BUCKETS, ddp, one_f_one_b
from ffdist.planner.search import best_pipeline, best_price, data_parallel, most_lanes
from ffdist.planner.simulate import BATCHES, simulate
from ffdist.settings import Settings

SEEDS = (0, 1, 2)
"""The seeds of the draws that are simulated; the median counts."""
SURE = 0.05
"""How much faster, as a share, another plan is simulated before it takes the place of the one with the least price: the
median error of what is simulated, so that nearer ones cannot be told apart."""


FEW = 16
"""Workers up to which plans are compared by all of SEEDS."""
MAX_RANKED = 64
"""Devices up to which the best plans of several numbers of lanes are simulated."""


class ExpectedRate(NamedTuple):
    """Simulated samples a second, over the draws."""

    rate: float
    least: float
    most: float

    @classmethod
    def of(cls, rates: Sequence[float]) -> ExpectedRate:
        """The median of several simulations, with the least and the most."""
        return cls(median(rates), min(rates), max(rates))


@dataclass(frozen=True)
class Forecast:
    """Plans and their speeds, all simulated from what was measured."""

    profile: Profile
    cluster: Cluster
    best: Price
    """The best plan; or the one that was given."""
    pipeline: Price | None
    """The best with a worker a stage; None where none keeps to the memory limit."""
    parallel: Price | None
    """Every worker with all blocks, and its lanes; None likewise."""
    speeds: dict[str, ExpectedRate]
    """By what it is: "best plan" or "given plan", "pipeline", "data parallel", "backprop, DDP", "backprop, 1F1B"."""

    @property
    def plan(self) -> Plan:
        return self.best.plan

    def scaled(self, counts: Sequence[int]) -> list[ScalingPoint]:
        """The forecast on other numbers of devices; see `scaled`."""
        return scaled(self.profile, self.cluster, counts)

    def as_json(self) -> dict[str, Any]:
        """All of it; `ffdist.plan.read_plan` takes the plan out of it."""
        stages = [
            {
                "blocks": list(each.stage.blocks),
                "workers": [str(share) for share in each.stage.shares],
                "by_batch": each.stage.by_batch,
                "seconds": each.busy,
                "idle": each.idle,
                "memory_bytes": each.memory,
                "sent_bytes": each.sent,
                "exchanged_bytes": each.exchanged,
            }
            for each in self.best.stages
        ]
        return {
            "plan": self.plan.as_json(),
            "text": str(self.plan),
            "devices": self.cluster.devices,
            "worker_devices": list(self.best.devices),
            "bounded": self.best.bounded,
            "lanes": self.plan.lanes,
            "batch": self.profile.batch,
            "device": self.profile.device,
            "precision": self.profile.precision,
            "seconds": self.best.seconds,
            "memory_bytes": self.best.memory,
            "stages": stages,
            "simulated": {name: each._asdict() for name, each in self.speeds.items()},
        }


def forecast(profile: Profile, cluster: Cluster, *, lanes: int | None = None, plan: Plan | None = None) -> Forecast:
    """lanes: None for as many as are best. plan: to price in place of the best one.

    Raises ConfigError where nothing keeps to the memory limit, and for a plan that does not fit.
    """
    pipeline = best_pipeline(profile, cluster, lanes=lanes or 1)
    parallel = best_data_parallel(profile, cluster, lanes)
    rates: dict[str, ExpectedRate] = {}
    if plan is None:
        best, rates["best plan"] = fastest(profile, cluster, lanes)
    else:
        best = price(profile, cluster, plan)
        rates["given plan"] = rate_of(profile, cluster, best)
    for name, each in {"pipeline": pipeline, "data parallel": parallel}.items():
        if each:
            rates[name] = rate_of(profile, cluster, each)
    if profile.backprop:
        rates["backprop, DDP"] = best_ddp(profile, cluster)
        rates["backprop, 1F1B"] = ExpectedRate.of([one_f_one_b(profile, cluster, seed=seed).rate for seed in SEEDS])
    return Forecast(profile, cluster, best, pipeline, parallel, rates)


def best_data_parallel(profile: Profile, cluster: Cluster, lanes: int | None) -> Price | None:
    """All blocks by every device, or by those that are not too slow to help; None where they do not fit, or where
    there are fewer lanes than devices, and more than one."""
    if lanes not in (None, 1) and cluster.devices > lanes:
        return None
    found = [data_parallel(profile, cluster, lanes=lanes, devices=devices) for devices in cluster.counts_by_speed()]
    return min((each for each in found if each), key=lambda each: each.seconds, default=None)


def fastest(
    profile: Profile, cluster: Cluster, lanes: int | None = None, *, exactly: bool = False
) -> tuple[Price, ExpectedRate]:
    """The plan with the least price; or one that is simulated as SURE to be faster, or one of fewer devices that is
    simulated to be faster: to leave devices idle is always allowed, unless `exactly` all are to have work.

    Raises ConfigError where nothing keeps to the memory limit.
    """
    least = best_price(profile, cluster, lanes=lanes, exactly=exactly)
    best, rate = of_least_price(profile, cluster, least, lanes, exactly=exactly)
    if cluster.devices <= MAX_RANKED and not (lanes or exactly):
        best, rate = of_other_lanes(profile, cluster, best, rate)
    devices = 0 if exactly else cluster.devices - 1
    while devices:
        numbers = cluster.fastest(devices)
        there = cluster.only(numbers)
        try:
            fewer = best_price(profile, there, lanes=lanes)
        except ConfigError:  # too little memory
            break
        if fewer.rate <= rate:  # what is simulated is no faster than its price
            break
        found, expected = of_least_price(profile, there, fewer, lanes)
        if expected > rate:
            best, rate = numbered(profile, cluster, found.plan, [numbers[each] for each in found.devices]), expected
        devices = min(fewer.plan.workers, devices - devices // 8) - 1
    best = replace(best, bounded=least.bounded)
    return best, rate_of(profile, cluster, best)


def of_least_price(
    profile: Profile, cluster: Cluster, least: Price, lanes: int | None, *, exactly: bool = False
) -> tuple[Price, float]:
    """The plan with the least price; or a plain one, or the best by batch, where that is simulated as SURE to be
    faster. With its rate."""
    plain = (
        best_pipeline(profile, cluster, lanes=lanes or 1),
        data_parallel(profile, cluster, lanes=lanes),
        data_parallel(profile, cluster, lanes=lanes, devices=1 << cluster.devices.bit_length() - 1),  # by halves
        best_by_batch(profile, cluster, lanes or 1, exactly=exactly),
    )
    fitting = [each for each in plain if each and not (exactly and each.plan.workers < cluster.devices)]
    best, rate = least, compared(profile, cluster, least)
    at_least = sure(cluster) * rate
    for each in fitting:
        if lanes in (None, each.plan.lanes) and each.rate > max(at_least, rate):
            expected = compared(profile, cluster, each)
            if expected > max(at_least, rate):
                best, rate = each, expected
    return best, rate


def of_other_lanes(profile: Profile, cluster: Cluster, best: Price, rate: float) -> tuple[Price, float]:
    """The best plan, or the one with the least price of another number of lanes, where that is simulated as SURE to be
    faster: of plans with shared blocks and queues of a few messages prices say less. Those are left out whose price is
    higher than what the best plan takes."""
    at_least = sure(cluster) * rate
    counts = {cluster.devices, 2 * cluster.devices, *(2**n for n in range(cluster.devices.bit_length() + 1))}
    for count in sorted(count for count in counts if count <= most_lanes(profile)):
        found = PlanSearch(profile, cluster, count).least(profile.batch / max(at_least, rate))
        if found:
            expected = compared(profile, cluster, found)
            if expected > max(at_least, rate):
                best, rate = found, expected
    return best, rate


def sure(cluster: Cluster) -> float:
    """The number of times as fast that another plan is to be; with more devices than any that was measured, 1."""
    return 1 + (SURE if cluster.devices <= FEW else 0.0)


def compared(profile: Profile, cluster: Cluster, priced: Price) -> float:
    """The rate of a plan as plans are compared: of many workers, by one draw."""
    seeds = SEEDS if priced.plan.workers <= FEW else SEEDS[:1]
    return rate_of(profile, cluster, priced, seeds).rate


def rate_of(profile: Profile, cluster: Cluster, priced: Price, seeds: Sequence[int] = SEEDS) -> ExpectedRate:
    """The simulated rate of a priced plan, which does not depend on its workers' numbers."""
    in_order = list(dict.fromkeys(worker for stage in priced.plan.stages for worker in stage.workers))
    numbers = {worker: number for number, worker in enumerate(in_order)}
    plan = priced.plan.renumbered([numbers[worker] for worker in range(len(in_order))])
    return simulated(profile, cluster.only([priced.devices[worker] for worker in in_order]), plan, seeds)


def simulated(profile: Profile, cluster: Cluster, plan: Plan, seeds: Sequence[int] = SEEDS) -> ExpectedRate:
    """The rate of a plan whose worker i is on device i, simulated once with each seed; the more workers, the fewer
    batches."""
    batches = batches_of(plan.workers * len(plan.stages))
    return ExpectedRate.of([simulate(profile, cluster, plan, batches=batches, seed=seed).rate for seed in seeds])


def batches_of(size: int) -> int:
    """The batches to simulate of so many workers, or of workers times stages."""
    return max(6, min(BATCHES, ceil(2000 / size)))


def best_ddp(profile: Profile, cluster: Cluster, batches: int = BATCHES) -> ExpectedRate:
    """DDP on as many of the devices as are fastest: all, all of some speed and faster ones, or fewer by halves of the
    next power of two; with buckets of the size that is fastest."""

    def rates(devices: int, bucket: float, seeds: Sequence[int]) -> list[float]:
        there = cluster.with_devices(devices)
        return [ddp(profile, there, batches=batches, seed=seed, bucket=bucket).rate for seed in seeds]

    counts = {*cluster.counts_by_speed(), *(2**n for n in range((cluster.devices - 1).bit_length()))}
    shapes = product(sorted(counts), BUCKETS)
    return ExpectedRate.of(rates(*max(shapes, key=lambda shape: rates(*shape, SEEDS[:1])), SEEDS))


class ScalingPoint(NamedTuple):
    """One number of devices, each with as many samples of a batch as were measured. All simulated."""

    devices: int
    batch: int
    plan: Plan
    best: ExpectedRate
    ddp: ExpectedRate
    pipelined: ExpectedRate
    """1F1B, with replicas where there are more devices than blocks."""


def scaled(profile: Profile, cluster: Cluster, counts: Sequence[int]) -> list[ScalingPoint]:
    """FF by its best plan, DDP by a ring, and 1F1B on each number of devices, growing. The batch grows with them: as
    many samples for each device as the measured batch has, on all sides. Of FF the plan for fewer devices is taken,
    and the others are idle, where the larger batch is no slower by it."""
    found: list[ScalingPoint] = []
    of_fewer: Price | None = None
    for count in sorted(set(counts)):
        there = replace(cluster.with_devices(count), cores=None)
        grown = replace(profile, batch=profile.batch * count)
        best, rate = fastest(grown, there)
        if of_fewer and (before := rate_of(grown, there, of_fewer)).rate >= rate.rate:
            best, rate = of_fewer, before
        of_fewer = best
        ring = best_ddp(grown, there, batches_of(count))
        pipes = [one_f_one_b(grown, there, batches=6, seed=seed).rate for seed in SEEDS]
        found.append(ScalingPoint(count, grown.batch, best.plan, rate, ring, ExpectedRate.of(pipes)))
    return found


@dataclass(frozen=True)
class Request:
    """The network, data and cluster that a plan is wanted for."""

    devices: int
    link: str | None = None
    """None: within this host, measured."""
    memory_limit: str | float | None = None
    speeds: tuple[float, ...] = ()
    lanes: int | None = None
    """None: as many as are best."""
    plan: str | None = None
    """A text, or a file, to price."""
    fresh: bool = False


def profiled(
    chain: Chain,
    objective: Objective,
    settings: Settings,
    train: Loader,
    request: Request,
    device: torch.device = CPU,
) -> tuple[Profile, Cluster]:
    """The profile for a request, measured now or before."""
    cluster = cluster_of(request, device, settings)
    return profile_of(chain, objective, settings, train, device=device, backprop=True, fresh=request.fresh), cluster


def cluster_of(request: Request, device: torch.device, settings: Settings) -> Cluster:
    """Raises ConfigError for what is no link, size or speed; StageError where links cannot be measured."""
    on_cpu, limit = not queues(device), request.memory_limit
    link = parse_link(request.link) if request.link is not None else None
    cluster = Cluster(
        request.devices,
        speeds=request.speeds,
        memory_limit=parse_bytes(limit) if isinstance(limit, str) else limit,
        queue=settings.plan.queue,
        exchange=ExchangeCost(settings.plan.exchange, 0.5 if settings.training.exchange_dtype == "bf16" else 1.0),
    )  # checked before anything is measured
    here = links_here(on_cpu=on_cpu, fresh=request.fresh)
    if link:
        return replace(cluster, link=with_ends(link, here.network), collective=with_ends(link, here.ring))
    cores = shared_cores(request.devices) if on_cpu else None
    return replace(cluster, link=here.memory, collective=here.ring if on_cpu else None, cores=cores)


def shared_cores(workers: int) -> float | None:
    """The number of this host's workers, of torch's threads each, that compute at once; None: all of them."""
    at_once = max(1.0, available_cores() / torch.get_num_threads())  # one by itself is as fast as it was measured
    return at_once if workers > at_once else None


def with_ends(link: NetworkLink, ends: NetworkLink) -> NetworkLink:
    """A link whose ends compute what those of another do."""
    return replace(link, sender=ends.sender, receiver=ends.receiver, message=ends.message)


def parse_speeds(text: str) -> tuple[float, ...]:
    """ "1,1,0.5". Raises ConfigError for what are no numbers."""
    try:
        speeds = tuple(float(word) for part in text.split(",") for word in part.split() or [""])
    except ValueError:
        speeds = ()
    if not speeds:
        raise ConfigError(
            "these are not speeds",
            where=setting("speeds"),
            expected="a number a device: 1,1,0.5",
            got=text or "nothing",
        )
    return speeds
