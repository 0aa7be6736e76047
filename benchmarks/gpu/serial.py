"""One GPU, one process: FF against backpropagation."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.gpu.suite import SIDES, Suite
from ffdist.bench.harness.resumed import Resumed
from ffdist.errors import NetworkError
from ffdist.models import Chain

SLOW = 2.0
"""Seconds a step after which a sweep goes no further."""
BEYOND = re.compile(
    r"out of memory|CU(BLAS|DNN)_STATUS|unable to find an engine|valid cuDNN"
    r"|canUse32BitIndexMath|integer out of range|2147483647|INT_MAX|32.?bit|too (large|big|many)|invalid configuration",
    re.IGNORECASE,
)
"""How torch, cuBLAS and cuDNN say that a batch needs more memory, or larger indices, than there are."""


def serial(suite: Suite, record: Resumed) -> None:
    """Samples/s in turns, and peak memory, for each network."""
    for name, chain in suite.networks().items():
        record.measure(partial(compared, suite, chain), network=name)


def compared(suite: Suite, chain: Chain) -> list[dict[str, Any]]:
    """Samples/s of both sides, in turns, and peak bytes of each."""
    builds = {side: partial(suite.learner, chain, side) for side in SIDES}
    peaks = {side: suite.peak(build) for side, build in builds.items()}
    rounds = suite.turns({side: build() for side, build in builds.items()})
    return [rounds.line(side, "ff") | {"peak": peaks[side]} for side in SIDES]


def batch_sweep(suite: Suite, record: Resumed) -> None:
    """Doubling batches, each side alone: samples/s and memory, until memory or indices end, or a step takes long."""
    sizes = (16, 32) if suite.quick else tuple(2**i for i in range(7, 17))
    for name, chain in list(suite.networks().items())[:3]:
        for side in SIDES:
            for size in sizes:
                lines = record.measure(partial(at_batch, suite, chain, side, size), network=name, side=side, batch=size)
                if lines is None or "ends" in lines[0]:
                    break


def at_batch(suite: Suite, chain: Chain, side: str, size: int) -> list[dict[str, Any]]:
    """One side at one batch size; `ends` gives the reason where the sweep goes no further."""
    here = replace(suite, batch=size, seconds=suite.seconds / 4)
    build = partial(here.learner, chain, side)
    try:
        peak = here.peak(build)
        rate = here.rate(build(), min(3, here.rounds))
    except (RuntimeError, NetworkError) as error:
        torchs = error.__cause__ if isinstance(error, NetworkError) else error
        if not BEYOND.search(str(torchs)):
            raise
        ends = str(torchs).splitlines()[0]
    else:
        seconds = size / rate.median
        slow = {"ends": f"a step takes {seconds:.1f} s"} if seconds > SLOW else {}
        return [{"throughput": rate, "peak": peak, **slow}]
    suite.recover()
    return [{"ends": ends}]
