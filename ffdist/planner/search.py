"""The fastest plan of a network on a cluster, of all numbers of lanes; and the plain ones beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, inf

from ffdist.errors import ConfigError, setting
from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner.by_batch import best_by_batch
from ffdist.planner.cluster import Cluster
from ffdist.planner.plan_search import PlanSearch
from ffdist.planner.plans_within import PlansWithin
from ffdist.planner.price import Price, numbered, price
from ffdist.planner.profile import Profile

MAX_FULL_SEARCH = 16
"""The devices up to which every number of lanes that fewer would have is tried, so that more of them are no slower."""
MIB = 2**20
UNLIMITED = 1e30
"""Bytes, as a limit that all keep to."""
PAYS = 0.01
"""A larger number of lanes is taken where it saves at least this share of the time: batch norm sees fewer samples."""


def best_plan(
    profile: Profile,
    cluster: Cluster,
    *,
    lanes: int | None = None,
    exactly: bool = False,
) -> Plan:
    """The plan with the least `price`, of at most `cluster.devices` workers.

    lanes: of each batch; None: as many as pay (of `lane_counts`), which is a part of what is learned. exactly:
    whether every device must have work, as where each is a rank already.
    Raises ConfigError where no plan keeps to the memory limit, with the least that would.
    """
    return best_price(profile, cluster, lanes=lanes, exactly=exactly).plan


def best_price(profile: Profile, cluster: Cluster, *, lanes: int | None = None, exactly: bool = False) -> Price:
    """The plan of `best_plan`, with what it costs."""
    best: Price | None = None
    of_best: PlanSearch | None = None
    bounded = False
    counts = [lanes] if lanes else lane_counts(profile, cluster.devices)
    for count in counts:
        check_lanes(profile, count)
        most = best.seconds * (1 - PAYS) if best else inf
        if lanes or count & (count - 1) == 0:  # lanes do not share such work out: a few numbers are enough
            rotating = best_by_batch(profile, cluster, count, most, exactly=exactly)
            if rotating and rotating.seconds < most:
                best, of_best, most = rotating, None, rotating.seconds
        search = PlanSearch(profile, cluster, count)
        if exactly and cluster.devices > count * len(profile.names):
            continue
        found = search.near_best(most, PAYS / 2)
        bounded = bounded or search.bounded
        if found and exactly:
            found = with_all(profile, cluster, search.best_from(found))
            found = found if found.memory <= cluster.most_memory else None
        if found:  # also where it is no faster than the one by batch: it is near the best, and `best_from` goes on
            best, of_best = found if best is None or found.seconds < best.seconds else best, search
    if best is None:
        raise nothing_fits_error(profile, cluster, counts)
    if of_best is not None and not exactly:
        best = of_best.best_from(best)
    return replace(best, bounded=bounded)


def best_pipeline(profile: Profile, cluster: Cluster, *, lanes: int = 1) -> Price | None:
    """The best plan of stages with a worker each, of as many devices as help; None where none keeps to the limit."""
    search = PlanSearch(profile, cluster, lanes, shared=False)
    return search.least()


def data_parallel(
    profile: Profile, cluster: Cluster, *, lanes: int | None = None, devices: int | None = None
) -> Price | None:
    """All blocks by each of so many of the devices, the fastest ones, of which there may be no more than lanes; None
    where they do not fit. devices: None for all."""
    many = min(devices or cluster.devices, lanes or most_lanes(profile))
    plan = Plan.replicated(profile.names, many, lanes or many)
    found = numbered(profile, cluster, plan, cluster.fastest(many))
    return found if found.memory <= cluster.most_memory else None


def lane_counts(profile: Profile, devices: int) -> list[int]:
    """Numbers of lanes that are tried where none is given: one or two for each device, powers of two, and those of
    fewer devices, up to MAX_FULL_SEARCH."""
    few = range(1, min(devices, MAX_FULL_SEARCH) + 1)
    wanted = {*few, *(2 * n for n in few), devices, 2 * devices, *(2**n for n in range((2 * devices).bit_length()))}
    return sorted(count for count in wanted if count <= most_lanes(profile))


def most_lanes(profile: Profile) -> int:
    """A lane has a sample a microbatch at least, and batch norm wants two."""
    return max(1, profile.batch // (2 * profile.microbatches))


def check_lanes(profile: Profile, lanes: int) -> None:
    """Raises ConfigError for lanes some of which would have no sample."""
    if not 1 <= lanes <= profile.batch:
        raise ConfigError(
            "a lane holds at least one sample", where=setting("lanes"), expected=f"1 to {profile.batch}", got=lanes
        )


def with_all(profile: Profile, cluster: Cluster, found: Price) -> Price:
    """The same with work for every device: parts are parted, where it costs the least, until there are as many."""
    limit = cluster.most_memory
    while found.plan.workers < cluster.devices:
        idle = [device for device in range(cluster.devices) if device not in found.devices]
        of_each_speed = {cluster.speed(device): device for device in reversed(idle)}
        found = min(
            (
                price(profile, cluster, each, (*found.devices, device))
                for device in sorted(of_each_speed.values(), key=cluster.speed)
                for each in with_one_worker_more(found.plan)
            ),
            key=lambda each: (each.memory > limit, each.seconds),
        )
    return numbered(profile, cluster, found.plan, found.devices)


def with_one_worker_more(plan: Plan) -> Iterator[Plan]:
    """Each plan with one worker more, who takes some of the lanes, or of the blocks, that one worker has in a stage, or
    all that a worker of several stages has in one. There are some while a worker has more than one lane of one block.
    """
    new = plan.workers
    serves = Counter(share.worker for stage in plan.stages for share in stage.shares)
    for n, stage in enumerate(plan.stages):
        for k, share in enumerate(stage.shares):
            parted = [
                changed
                for workers in ((share.worker, new), (new, share.worker))
                for changed in (*by_lanes(stage, k, workers), *by_blocks(stage, k, workers))
            ]
            if serves[share.worker] > 1:
                shares = (*stage.shares[:k], replace(share, worker=new), *stage.shares[k + 1 :])
                parted.append([replace(stage, shares=shares)])
            for changed in parted:
                yield replace(plan, stages=(*plan.stages[:n], *changed, *plan.stages[n + 1 :]))


def by_lanes(stage: PlanStage, k: int, workers: tuple[int, int]) -> Iterator[list[PlanStage]]:
    """The k-th share between two workers: cut near its ends, or in the middle."""
    lanes = stage.shares[k].lanes
    for middle in sorted({lanes.start + 1, lanes[len(lanes) // 2], lanes.stop - 1}):
        if lanes.start < middle < lanes.stop:
            ranges = (range(lanes.start, middle), range(middle, lanes.stop))
            halves = (Share(worker, each) for worker, each in zip(workers, ranges, strict=True))
            yield [replace(stage, shares=(*stage.shares[:k], *halves, *stage.shares[k + 1 :]))]


def by_blocks(stage: PlanStage, k: int, workers: tuple[int, int]) -> Iterator[list[PlanStage]]:
    """The stage as two, in which the k-th share is one worker's, and then another's."""
    for middle in range(1, len(stage.blocks)):
        parts = (stage.blocks[:middle], stage.blocks[middle:])
        yield [
            PlanStage(
                blocks,
                tuple(
                    replace(share, worker=worker) if place == k else share for place, share in enumerate(stage.shares)
                ),
            )
            for blocks, worker in zip(parts, workers, strict=True)
        ]


def nothing_fits_error(profile: Profile, cluster: Cluster, counts: Sequence[int]) -> ConfigError:
    """The error for a memory limit that no plan keeps to, with the least that one would."""
    least, limit = least_memory(profile, cluster, counts), cluster.memory_limit or 0.0
    if least <= limit:  # of plans that may leave devices idle
        return ConfigError(
            "no plan that has work for every device keeps to the memory limit",
            where=setting("memory_limit"),
            expected=f"more, or fewer than {cluster.devices} devices",
            got=in_mib(limit),
            remedy=f"fewer {setting('devices')}, or more {setting('memory_limit')}",
        )
    return ConfigError(
        "no plan keeps to the memory limit",
        where=setting("memory_limit"),
        expected=f"{in_mib(least)} at least, on {cluster.devices} devices",
        got=in_mib(limit) if MIB <= limit <= least - MIB else f"{limit:.0f} bytes",
        remedy=f"{setting('memory_limit', in_mib(least))}; or more {setting('devices')}, a smaller "
        f"{setting('training.batch_size')}, or more {setting('training.microbatches')}",
    )


def least_memory(profile: Profile, cluster: Cluster, counts: Sequence[int]) -> float:
    """Bytes of the worker with the most, in the plan of one of these numbers of lanes where that is the least; rounded
    up to MiB."""
    alike, least = replace(cluster, speeds=(), cores=None), 0
    for lanes in counts:
        plans, too_little = PlansWithin(profile, alike, lanes), 0
        found = plans.fitting((least - 1) * MIB if least else UNLIMITED)
        if found is None:
            continue
        least = ceil(found.memory / MIB)
        while least - too_little > 1:
            middle = (too_little + least) // 2
            if found := plans.fitting(middle * MIB):
                least = min(middle, ceil(found.memory / MIB))
            else:
                too_little = middle
    return float(least * MIB)


def in_mib(num_bytes: float) -> str:
    """Rounded up, as `parse_bytes` reads it."""
    return f"{ceil(num_bytes / MIB)}MiB"
