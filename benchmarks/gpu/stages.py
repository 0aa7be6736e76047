"""An N-stage plan on one GPU: each stage alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import Suite, ff_step, learner
from ffdist.models import Chain, cnnb
from ffdist.pipeline.plan import partition, split_by_stage

QUEUE = 2
"""Batches that wait between two stages, as by default in ffdist."""

Build = Callable[[], Callable[[], Tensor | None]]


def stages(suite: Suite, rows: Rows) -> None:
    """For 1, 2, 4, 8 stages: each one's samples/s and memory, with the real activations of those before."""
    for name, chain in suite.networks().items():
        if seconds := rows.row(partial(block_seconds, suite, chain), name, "block_seconds"):
            for count in (n for n in (1, 2, 4, 8) if n <= len(chain)):
                rows.row(partial(plan, suite, chain, partition(seconds, count)), name, str(count))


def plan(suite: Suite, chain: Chain, cut: list[int]) -> dict[str, Any]:
    alone = []
    for build, x, sent in each_stage(suite, chain, cut):
        row = memory(suite, build, x, sent, received=bool(alone))
        alone.append({"samples_per_second": rate(suite, build()), **row})
    return {
        "cut": cut,
        "stages": alone,
        "fullest_device_bytes": max(row["device_bytes"] for row in alone),
        "slowest_stage_samples_per_second": min(row["samples_per_second"] for row in alone),
    }


def block_seconds(suite: Suite, chain: Chain) -> list[float]:
    """Seconds of a batch for each block alone, on what the blocks before it send."""
    brief = replace(suite, seconds=suite.seconds / 4)
    return [suite.batch / rate(brief, build()) for build, _, _ in each_stage(suite, chain, [1] * len(chain))]


def rate(suite: Suite, step: Callable[[], object]) -> float:
    suite.warm(step)
    return suite.rate(step, suite.batch)


def depth_sweep(suite: Suite, rows: Rows) -> None:
    """Equal blocks, 6 to 96, one block a stage: the fullest stage's memory against that of backpropagation.

    bp_bytes: of the whole network and batch on one device. bp_share_bytes: with the batch's share of as many devices as
    there are stages, which is what a rank of DDP would hold beside its buffers. The network is cnnb, 32 wide; its
    blocks from the third on are alike, so the first eight are weighed.
    """
    for depth in (2, 4) if suite.quick else (6, 12, 24, 48, 96):
        rows.row(partial(at_depth, suite, depth), str(depth))


def at_depth(suite: Suite, depth: int) -> dict[str, Any]:
    chain = cnnb((3, 32, 32), 10, (32,) * depth)
    weighed = [
        memory(suite, build, x, sent, received=index > 0)
        for index, (build, x, sent) in enumerate(islice(each_stage(suite, chain, [1] * depth), 8))
    ]
    share = replace(suite, batch=-(-suite.batch // depth))
    bp, bp_share = (each.peak(partial(learner, each, chain, "bp")) for each in (suite, share))
    return {
        "fullest_stage": max(weighed, key=lambda row: row["device_bytes"]),
        "bp_bytes": bp,
        "bp_share_batch": share.batch,
        "bp_share_bytes": bp_share,
    }


def each_stage(suite: Suite, chain: Chain, cut: list[int]) -> Iterator[tuple[Build, Tensor, Tensor | None]]:
    """What builds a stage's step, what the stage receives and what it sends."""
    x, y = suite.batch_of(chain)
    for blocks in split_by_stage(range(len(chain)), cut):

        def build(mine: Sequence[int] = blocks, x: Tensor = x) -> Callable[[], Tensor | None]:
            return ff_step(suite.forward_forward(chain, mine), x, y)

        sent = build()()
        yield build, x, sent
        x = x if sent is None else sent


def memory(suite: Suite, build: Build, x: Tensor, sent: Tensor | None, *, received: bool) -> dict[str, int]:
    """Bytes of a stage on a device of its own.

    stage_bytes: the peak of its blocks at work. received_bytes: the batch in hand, and those that wait in the queue
    before it. sent_bytes: those that it keeps until the next stage has taken them from its queue.
    """
    parts = {
        "stage_bytes": suite.peak(build),
        "received_bytes": (QUEUE + 1 if received else 1) * x.nbytes,
        "sent_bytes": 0 if sent is None else QUEUE * sent.nbytes,
    }
    return parts | {"device_bytes": sum(parts.values())}
