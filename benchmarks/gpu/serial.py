"""One GPU, one process: FF against backpropagation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import SIDES, Suite, learner, summary
from ffdist.errors import NetworkError
from ffdist.models import Chain

SLOW = 2.0
"""Seconds a step behind which a sweep goes no further."""
BEYOND = re.compile(
    r"out of memory|CU(BLAS|DNN)_STATUS|unable to find an engine|valid cuDNN"
    r"|canUse32BitIndexMath|integer out of range|2147483647|INT_MAX|32.?bit|too (large|big|many)|invalid configuration",
    re.IGNORECASE,
)
"""How torch, cuBLAS and cuDNN say that a batch needs more memory, or larger indices, than there are."""


def serial(suite: Suite, rows: Rows) -> None:
    """Samples/s in turns, and peak memory, for each network."""
    for name, chain in suite.networks().items():
        rows.row(partial(compared, suite, chain), name)


def compared(suite: Suite, chain: Chain) -> dict[str, Any]:
    builds = {side: partial(learner, suite, chain, side) for side in SIDES}
    memory = {side: suite.peak(build) for side, build in builds.items()}
    rates = suite.turns({side: build() for side, build in builds.items()}, suite.batch)
    return {"batch": suite.batch, "rates": rates, "peak_bytes": memory}


def batch_sweep(suite: Suite, rows: Rows) -> None:
    """Doubling batches, each side alone: samples/s and memory, until memory or indices end, or a step takes long."""
    sizes = (16, 32) if suite.quick else tuple(2**i for i in range(7, 17))
    for name, chain in list(suite.networks().items())[:3]:
        for side in SIDES:
            for size in sizes:
                row = rows.row(partial(at_batch, suite, chain, side, size), name, side, str(size))
                if row is None or "ends" in row:
                    break


def at_batch(suite: Suite, chain: Chain, side: str, size: int) -> dict[str, Any]:
    """`ends` says why the sweep goes no further."""
    here = replace(suite, batch=size, seconds=suite.seconds / 4)
    try:
        return measured(here, partial(learner, here, chain, side))
    except (RuntimeError, NetworkError) as error:
        torchs = error.__cause__ if isinstance(error, NetworkError) else error
        if not BEYOND.search(str(torchs)):
            raise
        ends = str(torchs).splitlines()[0]
    suite.recover()
    return {"ends": ends}


def measured(suite: Suite, build: Callable[[], Callable[[], object]]) -> dict[str, Any]:
    memory, step = suite.peak(build), build()
    suite.warm(step)
    row = summary([suite.rate(step, suite.batch) for _ in range(min(3, suite.rounds))]) | {"peak_bytes": memory}
    seconds = suite.batch / row["samples_per_second"]
    return row | ({"ends": f"a step takes {seconds:.1f} s"} if seconds > SLOW else {})
