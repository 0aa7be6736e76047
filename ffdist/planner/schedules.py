"""Backpropagation on the same cluster, by the same measurements: data parallelism with a ring, and a 1F1B pipeline.

A ring has 2 (N - 1) steps a bucket. What a step takes of a CPU is measured by gloo's own all-reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from ffdist.pipeline.plan import partition, split_by_stage
from ffdist.planner.cluster import Cluster, NetworkLink
from ffdist.planner.profile import BackpropProfile, BlockProfile, Profile
from ffdist.planner.simulate import BATCHES, TimeDraw

BUCKETS = (25.0 * 2**20, inf)
"""Bytes of gradients that travel together: as DistributedDataParallel has it unless told otherwise; and all."""


@dataclass(frozen=True)
class BackpropTime:
    """A batch by backpropagation."""

    seconds: float
    batch: int
    microbatches: int = 1

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.batch / self.seconds


def ddp(
    profile: Profile,
    cluster: Cluster,
    *,
    batches: int = BATCHES,
    seed: int | None = None,
    bucket: float = BUCKETS[0],
) -> BackpropTime:
    """DistributedDataParallel on all devices: buckets of gradients are reduced around a ring, one after the other,
    from when backward has made them on every rank; the optimiser waits for the last. bucket: bytes of one, at least."""
    blocks = backprop_of(profile).blocks
    ranks, link = cluster.devices, cluster.collective or cluster.link
    draws = [TimeDraw(seed, rank) for rank in range(ranks)]
    samples = profile.batch / ranks
    total = 0.0
    for _ in range(batches):
        ready = [[0.0] * len(blocks) for _ in range(ranks)]
        """When each rank has each block's gradients."""
        for rank, draw in enumerate(draws):
            now = (draw(profile.source, samples) if profile.on_cpu else 0.0) / cluster.speed(rank)
            now += sum(draw(block.forward, samples) for block in blocks) / cluster.speed(rank)
            for index in reversed(range(len(blocks))):
                now += draw(blocks[index].backward, samples) / cluster.speed(rank)
                ready[rank][index] = now
        crowded = max(1.0, ranks / cluster.cores) if cluster.cores else 1.0
        end = max(times[0] for times in ready) * crowded
        if ranks > 1:
            buckets = ddp_buckets(blocks, bucket)
            end = max(
                end, reduced(buckets, [max(column) for column in zip(*ready, strict=True)], ranks, link) * crowded
            )
            end += ring_cpu(buckets, ranks, link) * crowded
        total += end + sum(block.step for block in blocks) * crowded
    return BackpropTime(total / batches, profile.batch)


Buckets = Sequence[tuple[int, float]]
"""The block that completes each bucket, and the bucket's bytes, in the order in which backward makes them."""


def reduced(buckets: Buckets, ready: Sequence[float], ranks: int, link: NetworkLink) -> float:
    """The moment when the last bucket has been around the ring; ready: when every rank has each block's gradients."""
    end = 0.0
    for index, size in buckets:
        around = 2 * link.seconds(size) * (ranks - 1) / ranks + 2 * (ranks - 1) * link.latency
        end = max(end, ready[index]) + around
    return end


def ring_cpu(buckets: Buckets, ranks: int, link: NetworkLink) -> float:
    """Seconds of computing that each rank loses with the rings of a batch."""
    num_bytes = sum(size for _, size in buckets)
    both_ends = num_bytes / ranks * (link.sender + link.receiver) + 2 * len(buckets) * link.message
    return 2 * (ranks - 1) * both_ends


def ddp_buckets(blocks: Sequence[BlockProfile], least: float) -> Buckets:
    """The buckets of as many bytes at least, but for the last."""
    found: list[tuple[int, float]] = []
    size = 0.0
    for index in reversed(range(len(blocks))):
        size += blocks[index].gradient_bytes
        if size >= least or index == 0:
            found.append((index, size))
            size = 0.0
    return found


def one_f_one_b(profile: Profile, cluster: Cluster, *, batches: int = BATCHES, seed: int | None = None) -> BackpropTime:
    """A pipeline by 1F1B with a flush after each batch (PipeDream-Flush, Narayanan et al., ICML 2021), of a few
    numbers of microbatches, and of replicas, the best. Stages by measured time, one a device; where there are more
    devices than blocks, replicas of the pipeline, as many as there is room for, or fewer by halves, whose gradients are
    reduced around a ring after the last microbatch. A stage is as fast as the slowest of its replicas; slow devices may
    be left idle."""
    blocks = len(backprop_of(profile).blocks) - 1
    counts = [count for count in (1, 4, 8, 16, 32) if count <= profile.batch]
    sizes = list[int]()
    for devices in cluster.counts_by_speed():
        stages = min(devices, blocks)
        replicas = devices // stages
        sizes += [stages * (replicas >> n) for n in range(replicas.bit_length())]
    found = [
        pipeline_time(profile, cluster.with_devices(size), count, min(batches, 8), seed)
        for size in dict.fromkeys(sizes)
        for count in counts
    ]
    return min(found, key=lambda each: each.seconds)


def pipeline_time(
    profile: Profile, cluster: Cluster, microbatches: int, batches: int, seed: int | None
) -> BackpropTime:
    """A batch in so many microbatches by 1F1B; the first of the batches, which fills the pipeline, does not count."""
    blocks, draw, link = backprop_of(profile).blocks, TimeDraw(seed), cluster.link
    ring = cluster.collective or link
    size = min(cluster.devices, len(blocks) - 1)
    replicas = cluster.devices // size
    samples = profile.batch / replicas / microbatches
    seconds = [block.forward.at(samples) + block.backward.at(samples) for block in blocks]
    blocks_per_stage = partition([*seconds[:-2], sum(seconds[-2:])], size)
    blocks_per_stage[-1] += 1
    stages = split_by_stage(blocks, blocks_per_stage)
    clocks, first = [0.0] * size, 0.0
    for batch in range(batches):
        clocks = one_batch(profile, cluster, stages, microbatches, samples, clocks, draw)
        if replicas > 1:
            for place, stage in enumerate(stages):
                whole = ddp_buckets(stage, inf)
                clocks[place] += reduced(whole, [0.0] * len(stage), replicas, ring) + ring_cpu(whole, replicas, ring)
        clocks = [
            clock + sum(block.step for block in stage) / slowest(cluster, place, size)
            for place, (clock, stage) in enumerate(zip(clocks, stages, strict=True))
        ]
        if batch == 0:
            first = max(clocks)
    each = (max(clocks) - first) / max(1, batches - 1) if batches > 1 else first
    if cluster.cores and size * replicas > cluster.cores:
        each = max(each, replicas * microbatches * sum(seconds) / cluster.cores)
    return BackpropTime(each, profile.batch, microbatches)


def one_batch(
    profile: Profile,
    cluster: Cluster,
    stages: Sequence[Sequence[BlockProfile]],
    microbatches: int,
    samples: float,
    clocks: Sequence[float],
    draw: TimeDraw,
) -> list[float]:
    """The moments at which each stage has done its last part of a batch; clocks: when each can begin.

    Stage s of S goes forward with S - s microbatches, then backward and forward in turn, then backward with the rest.
    """
    size, link, now, sent = len(stages), cluster.link, list(clocks), list(clocks)
    done: dict[tuple[str, int, int], float] = {}
    plans = [order_of(size - place, microbatches) for place in range(size)]
    while any(plans):
        for place, plan in enumerate(plans):
            while plan:
                kind, part = plan[0]
                source = before(kind, place, part, size)
                if source and source not in done:
                    break
                border = place - 1 if kind == "F" else place  # a gradient is as large as what came forward there
                num_bytes = samples * stages[border][-1].sent
                moved = bool(source) and source[1] != place
                came = done[source] if source else 0.0
                own = sum(draw(b.forward if kind == "F" else b.backward, samples) for b in stages[place])
                if kind == "F" and place == 0 and profile.on_cpu:
                    own += draw(profile.source, samples)
                own /= slowest(cluster, place, size)
                own += link.sending(num_bytes, 1) + link.receiving(num_bytes, 1) if moved else 0.0
                now[place] = max(now[place], came) + own
                done[kind, place, part] = now[place]
                if (to := place + (1 if kind == "F" else -1)) in range(size):  # its link has one message at a time
                    sent_bytes = samples * stages[min(place, to)][-1].sent
                    begun = max(now[place], sent[place])
                    sent[place] = begun + link.carrying(sent_bytes)
                    alone = link.wired or not link.sender  # else it is a copy, and the sender's own work
                    done[kind, place, part] = begun + alone * link.seconds(sent_bytes) + link.latency
                plan.pop(0)
    return now


def slowest(cluster: Cluster, place: int, size: int) -> float:
    """The speed of the slowest device at a place of a pipeline of so many stages, of which there may be replicas."""
    replicas = max(1, cluster.devices // size)
    return min(cluster.speed(replica * size + place) for replica in range(replicas))


def before(kind: str, place: int, part: int, size: int) -> tuple[str, int, int] | None:
    """The work that a stage's part of the schedule waits for: kind "F" or "B", stage, microbatch."""
    if kind == "F":
        return ("F", place - 1, part) if place else None
    return ("B", place + 1, part) if place < size - 1 else ("F", place, part)


def order_of(warmup: int, microbatches: int) -> list[tuple[str, int]]:
    """One stage's forwards and backwards in order: warmup forwards, then one of each, then the backwards left.

    warmup 2, 4 microbatches:  F0 F1 B0 F2 B1 F3 B2 B3
    """
    ahead = min(warmup, microbatches)
    order = [("F", part) for part in range(ahead)]
    for part in range(microbatches):
        order.append(("B", part))
        if ahead + part < microbatches:
            order.append(("F", ahead + part))
    return order


def backprop_of(profile: Profile) -> BackpropProfile:
    assert profile.backprop, "profile_of(..., backprop=True)"
    return profile.backprop
