"""All stages of a plan at once on one GPU: a thread and a CUDA stream each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, Full, Queue
from typing import Any

from torch import Tensor

from benchmarks.gpu.stages import QUEUE, block_seconds
from benchmarks.gpu.suite import Suite, ff_step
from ffdist.bench.harness.resumed import Resumed
from ffdist.bench.harness.rounds import StepSide, Unwatched, calibrated, take_turns
from ffdist.bench.harness.window import Window, WindowRate, timed
from ffdist.device import new_stream, on_stream, synchronize
from ffdist.models import Chain
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.plan import partition, split_by_stage

POLL = 0.2


def streams(suite: Suite, record: Resumed) -> None:
    """Stages as threads with a stream each, against the same blocks one after the other; round by round."""
    for name, chain in suite.networks().items():
        record.measure(partial(by_streams, suite, chain), network=name)


def by_streams(suite: Suite, chain: Chain) -> list[dict[str, Any]]:
    cut = partition(block_seconds(suite, chain), min(2 if suite.quick else 4, len(chain)))
    x, y = suite.batch_of(chain)
    alone = StepSide("one stream", ff_step(suite.forward_forward(chain), x, y), suite.batch, suite.device)
    with StreamPipeline(suite, chain, cut, x, y) as line:
        sides = [calibrated(side, suite.seconds) for side in (alone, line)]
        rounds = take_turns(sides, Unwatched(), min(3, suite.rounds))
    return [rounds.line(side.name, line.name) | {"stages": len(cut)} for side in sides]


class Stopped(Exception):  # noqa: N818
    """Raised by a queue's waiting end when the pipeline is stopped."""


class BoundedQueue:
    """A bounded queue between two threads; both ends raise `Stopped` once the pipeline is stopped."""

    def __init__(self, size: int, stopped: threading.Event) -> None:
        self.queue: Queue[Any] = Queue(size)
        self.over = stopped

    def put(self, item: Any) -> None:
        self._try(lambda: self.queue.put(item, timeout=POLL))

    def get(self) -> Any:
        return self._try(lambda: self.queue.get(timeout=POLL))

    def _try(self, what: Callable[[], Any]) -> Any:
        while not self.over.is_set():
            try:
                return what()
            except (Empty, Full):
                pass
        raise Stopped


class StreamPipeline:
    """The stages at work as long as the block lasts, with queues of `QUEUE` batches between them."""

    name = "streams"
    window = Window(10, 10)

    def __init__(self, suite: Suite, chain: Chain, cut: list[int], x: Tensor, y: Tensor) -> None:
        self.suite = suite
        self.x = x
        self.y = y
        self.over = threading.Event()
        self.failures = list[BaseException]()
        self.edges = [BoundedQueue(QUEUE, self.over) for _ in cut] + [BoundedQueue(0, self.over)]
        blocks = suite.forward_forward(chain)
        parts = split_by_stage(blocks, cut)
        self.threads = [threading.Thread(target=self._run_stage, args=each, daemon=True) for each in enumerate(parts)]

    def __enter__(self) -> StreamPipeline:
        synchronize(self.suite.device)  # the streams see the weights and the batch
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def measure(self) -> WindowRate:
        """Seconds from the first batch's start to the last's end. Raises what a stage raised."""
        return timed(self.window, self._flow, self.suite.batch)

    def _flow(self, batches: int) -> None:
        try:
            for _ in range(batches):
                self.edges[0].put((self.x, None))
            for _ in range(batches):
                self.edges[-1].get()
        except Stopped:
            raise self.failures[0] from None
        synchronize(self.suite.device)

    def _run_stage(self, index: int, blocks: list[LearningBlock]) -> None:
        try:
            self._forward_batches(blocks, self.edges[index], self.edges[index + 1])
        except Stopped:
            pass
        except BaseException as error:  # an exit, too: `measure` raises it in the thread that waits
            self.failures.append(error)
            self.over.set()

    def _forward_batches(self, blocks: list[LearningBlock], inbox: BoundedQueue, outbox: BoundedQueue) -> None:
        """Learn from each batch of `inbox`, and hand on what the blocks send, with the event at which it is ready."""
        self.suite.begin()
        stream = new_stream(self.suite.device)
        with on_stream(stream):
            while True:
                x, ready = inbox.get()
                if stream and ready:
                    stream.wait_event(ready)
                    x.record_stream(stream)  # else the allocator may reuse it while this stream still reads it
                sent = ff_step(blocks, x, self.y)()
                outbox.put((sent, stream.record_event() if stream else None))
