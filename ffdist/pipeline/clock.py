"""Measures of where a stage's time goes, and of how far a host runs ahead of its GPU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

import torch

from ffdist.device import queues, recorded
from ffdist.pipeline.message import Message


class HostClock:
    """The division of a stage's time between two ends of an epoch: waiting for data, for credit, for the gradients of
    others that share its blocks, sending and adding up gradients; the rest busy."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.data = 0.0
        """Seconds waited for data, in all."""
        self.samples = 0
        """Samples learned from, in all."""
        self.last_asked: dict[str, tuple[float, ...]] = {}
        """For each who asks, all times when it last asked."""

    def timed(self, inbox: Iterable[Message]) -> Iterator[Message]:
        """The same messages; the time each was waited for is counted."""
        asked = time.perf_counter()
        for message in inbox:
            self.data += time.perf_counter() - asked
            yield message
            del message  # the memory it lies in goes back before the next is asked for
            asked = time.perf_counter()

    def usage(
        self,
        credit: float,
        exchange: float = 0.0,
        gradients: float = 0.0,
        overlapped: float = 0.0,
        missed: float = 0.0,
        *,
        user: str = "epoch",
    ) -> dict[str, float]:
        """Seconds since `user` last asked, samples learned from since, and "hidden": of the time that gradients were
        under way, the share in which this worker had other things to do.

        credit, exchange, gradients: in all, so far: waited for room; of exchanging gradients, and waited for them.
        overlapped, missed: of exchanges within batches, not waited for and waited for.
        """
        so_far = (time.perf_counter(), self.samples, self.data, credit, exchange, gradients, overlapped, missed)
        before = self.last_asked.get(user, (self.began, 0, *[0.0] * 6))
        self.last_asked[user] = so_far
        seconds, samples, *parts = (a - b for a, b in zip(so_far, before, strict=True))
        data, waited, exchanged, awaited, hidden, exposed = parts
        usage = {
            "seconds": seconds,
            "samples": samples,
            "busy": seconds - data - waited - exchanged - awaited,
            "no_data": data,
            "no_credit": waited,
        }
        if exchange:
            usage |= {"exchange": exchanged, "no_gradients": awaited}
        if hidden + exposed > 0:
            usage["hidden"] = hidden / (hidden + exposed)
        return usage


class HostLead:
    """Keeps the host one message ahead of its GPU: else it would run on until something made it wait, and that would be
    counted as waiting for data or for credit."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.under_way: deque[torch.Event] = deque()

    def limit(self) -> None:
        """Called after each message: wait until the GPU has done what came before it. A CPU has."""
        if not queues(self.device):
            return
        self.under_way.append(recorded(self.device, blocking=True))
        if len(self.under_way) > 1:
            self.under_way.popleft().synchronize()
