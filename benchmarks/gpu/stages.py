"""An N-stage plan on one GPU: each stage alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import RULE, Suite, ff_step
from ffdist.models import Chain
from ffdist.pipeline.plan import measure_blocks, partition

QUEUE = 2
"""Batches that wait between two stages, as by default in ffdist."""


def stages(suite: Suite, rows: Rows) -> None:
    """For 2, 4, ... stages: each one's time, memory and what it sends, with the real activations of those before."""
    for name, chain in suite.networks().items():
        if seconds := rows.row(partial(block_seconds, suite, chain), name, "block_seconds"):
            for count in (n for n in (1, 2, 4, 8) if n <= len(chain)):
                rows.row(partial(plan, suite, chain, partition(seconds, count)), name, str(count))


def block_seconds(suite: Suite, chain: Chain) -> list[float]:
    config = suite.forward_forward(chain, range(1))[0].config
    return [cost.seconds for cost in measure_blocks(chain, RULE, config, suite.batch, repeats=10)]


def plan(suite: Suite, chain: Chain, cut: list[int]) -> dict[str, Any]:
    x, y = suite.batch_of(chain)
    rows = []
    for index, size in enumerate(cut):
        first = sum(cut[:index])
        sent = ff_step(suite.forward_forward(chain, range(first, first + size)), x, y)()

        def build(first: int = first, size: int = size, x: Tensor = x) -> Callable[[], object]:
            return ff_step(suite.forward_forward(chain, range(first, first + size)), x, y)

        memory, step = suite.peak(build), build()
        rate = suite.rate(step, suite.batch)
        rows.append({"stage": index, "blocks": chain.names[first : first + size], "samples_per_second": rate,
                     "peak_bytes": memory, "received_bytes": x.nbytes if index else 0})  # fmt: skip
        x = x if sent is None else sent.detach()
    fullest = max(r["peak_bytes"] + 2 * r["received_bytes"] for r in rows)  # with a queue of two
    return {"cut": cut, "stages": rows, "fullest_device_bytes": fullest,
            "slowest_stage_samples_per_second": min(r["samples_per_second"] for r in rows)}  # fmt: skip
