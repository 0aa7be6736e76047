"""An N-stage plan on one GPU: each stage alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from benchmarks.gpu.suite import Suite, ff_step
from ffdist.bench.harness.resumed import Resumed
from ffdist.models import Chain, cnnb
from ffdist.pipeline.plan import partition, split_by_stage

QUEUE = 2
"""Batches that wait between two stages, as by default in ffdist."""

Build = Callable[[], Callable[[], Tensor | None]]


def stages(suite: Suite, record: Resumed) -> None:
    """Measure 1, 2, 4, 8 stages: each one's samples/s and memory, with the real activations of those before."""
    for name, chain in suite.networks().items():
        if seconds := block_times(suite, record, name, chain):
            for count in (n for n in (1, 2, 4, 8) if n <= len(chain)):
                work = partial(plan, suite, chain, partition(seconds, count))
                record.measure(work, network=name, side="ff", stages=count)


def block_times(suite: Suite, record: Resumed, name: str, chain: Chain) -> list[float] | None:
    """Seconds of each block for a batch, measured once and then read from the record; None where that failed."""
    work = partial(block_lines, suite, chain)
    lines = record.measure(work, network=name, side="each block")
    return None if lines is None else [line["time"].value for line in lines]


def block_lines(suite: Suite, chain: Chain) -> list[dict[str, Any]]:
    return [{"block": index, "time": seconds} for index, seconds in enumerate(block_seconds(suite, chain))]


def block_seconds(suite: Suite, chain: Chain) -> list[float]:
    """Seconds of a batch, each block alone on what those before it send."""
    brief = replace(suite, seconds=suite.seconds / 4)
    return [suite.batch / brief.rate(build()).median for build, _, _ in each_stage(suite, chain, [1] * len(chain))]


def plan(suite: Suite, chain: Chain, cut: list[int]) -> list[dict[str, Any]]:
    """Samples/s and memory of each stage of a cut, measured one by one."""
    return [
        {"index": index, "cut": cut[index], "throughput": suite.rate(build())}
        | memory(suite, build, x, sent, received=index > 0)
        for index, (build, x, sent) in enumerate(each_stage(suite, chain, cut))
    ]


def depth_sweep(suite: Suite, record: Resumed) -> None:
    """Equal blocks, 6 to 96, one block a stage: the fullest stage's memory against that of backpropagation.

    share: of backpropagation with the batch's share of as many devices as there are stages, which is what a rank of DDP
    would hold beside its buffers. The network is cnnb, 32 wide; its blocks from the third on are alike, so the first
    eight are weighed.
    """
    for depth in (2, 4) if suite.quick else (6, 12, 24, 48, 96):
        record.measure(partial(at_depth, suite, depth), depth=depth)


def at_depth(suite: Suite, depth: int) -> list[dict[str, Any]]:
    chain = cnnb((3, 32, 32), 10, (32,) * depth)
    each_alone = enumerate(islice(each_stage(suite, chain, [1] * depth), 8))
    weighed = [memory(suite, build, x, sent, received=index > 0) for index, (build, x, sent) in each_alone]
    share = replace(suite, batch=-(-suite.batch // depth))
    bp, bp_share = (each.peak(partial(each.learner, chain, "bp")) for each in (suite, share))
    fullest = max(weighed, key=lambda stage: stage["peak"])
    return [{"side": "ff", **fullest}, {"side": "bp", "peak": bp, "share_batch": share.batch, "share": bp_share}]


def each_stage(suite: Suite, chain: Chain, cut: list[int]) -> Iterator[tuple[Build, Tensor, Tensor | None]]:
    """Each stage's builder of its step, what the stage receives and what it sends."""
    x, y = suite.batch_of(chain)
    for blocks in split_by_stage(range(len(chain)), cut):

        def build(mine: Sequence[int] = blocks, x: Tensor = x) -> Callable[[], Tensor | None]:
            return ff_step(suite.forward_forward(chain, mine), x, y)

        sent = build()()
        yield build, x, sent
        x = x if sent is None else sent


def memory(suite: Suite, build: Build, x: Tensor, sent: Tensor | None, *, received: bool) -> dict[str, int]:
    """Bytes of a stage on a device of its own, in all (`peak`) and by parts.

    stage: the peak of its blocks at work. received: the batch in hand, and those that wait in the queue before it.
    sent: those that it keeps until the next stage has taken them from its queue.
    """
    in_hand = (QUEUE + 1 if received else 1) * x.nbytes
    parts = {"stage": suite.peak(build), "received": in_hand, "sent": 0 if sent is None else QUEUE * sent.nbytes}
    return parts | {"peak": sum(parts.values())}
