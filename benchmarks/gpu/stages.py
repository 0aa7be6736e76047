"""An N-stage plan on one GPU: each stage alone, and all of them at once by streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.suite import RULE, Suite, ff_step
from ffdist.models import Chain
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.plan import measure_blocks, partition


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


def streams(suite: Suite, rows: Rows) -> None:
    """Stages as threads with a stream each, against the same blocks one after the other."""
    for name, chain in suite.networks().items():
        rows.row(partial(by_streams, suite, chain), name)


def by_streams(suite: Suite, chain: Chain) -> dict[str, Any]:
    cut = partition(block_seconds(suite, chain), min(2 if suite.quick else 4, len(chain)))
    x, y = suite.batch_of(chain)
    alone = suite.rate(ff_step(suite.forward_forward(chain), x, y), suite.batch)
    together = overlapped(suite, chain, cut, x, y)
    return {"cut": cut, "one_stream": alone, "streams": together, "ratio": together / alone}


def overlapped(suite: Suite, chain: Chain, cut: list[int], x: Tensor, y: Tensor) -> float:
    """Samples/s of all stages at once; queues of two batches between them."""
    blocks = suite.forward_forward(chain)
    suite.wait()
    batches = 10 if suite.quick else 200
    queues: list[Queue[Any]] = [Queue(2) for _ in cut]
    failures: list[BaseException] = []

    def life(index: int) -> None:
        first = sum(cut[:index])
        try:
            work(suite, blocks[first : first + cut[index]], queues, index, y)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=life, args=(index,), daemon=True) for index in range(len(cut))]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    for _ in range(batches):
        queues[0].put((x, None))
    queues[0].put(None)
    for thread in threads:
        thread.join()
    suite.wait()
    if failures:
        raise failures[0]
    return batches * suite.batch / (time.perf_counter() - begun)


def work(suite: Suite, blocks: list[LearningBlock], queues: list[Queue[Any]], index: int, y: Tensor) -> None:
    """One stage's thread: a batch is handed on with the event behind which it is there."""
    on_gpu = suite.device.type == "cuda"
    stream = torch.cuda.Stream(suite.device) if on_gpu else None
    step = 0
    with torch.cuda.stream(stream):
        while (item := queues[index].get()) is not None:
            x, ready = item
            if stream and ready:
                stream.wait_event(ready)
                x.record_stream(stream)
            step += 1
            sent = ff_step(blocks, x, y)()
            if index + 1 < len(queues):
                done = torch.cuda.Event() if on_gpu else None
                if done:
                    done.record()
                queues[index + 1].put((sent, done))
    if index + 1 < len(queues):
        queues[index + 1].put(None)
