"""The actors' signs of life, as the driver of a run on Ray asks for them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from ffdist.runtime.heartbeat import silence_of

POLL_SECONDS = 0.5
"""Seconds from one look for an actor that hangs to the next, which may come that much later once more."""


class Heartbeats:
    """The actors' signs of life: each is asked how it is, and asked again when it has answered."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.activity: dict[int, str] = {}
        """What each worker was doing, as its last answer said, by rank."""
        self.stop_signal = 0
        """The number of the signal by which one of them is to stop; 0: none came."""
        self._asked: dict[int, Any] = {}
        self._heard: dict[int, float] = {}
        self._looked = time.monotonic()

    def missed(self, actors: dict[int, Any]) -> list[int]:
        """Those who have not answered for too long."""
        if self.timeout is None or time.monotonic() - self._looked < POLL_SECONDS:
            return []
        now = time.monotonic()
        if now - self._looked > silence_of(self.timeout) / 2:  # this process itself was stopped
            self._heard.clear()
        self._looked = now
        for rank, actor in actors.items():
            self._heard.setdefault(rank, now)
            if rank not in self._asked:
                self._asked[rank] = actor.beat.remote()
        answered, _ = ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=0)
        for rank, answer in list(self._asked.items()):
            if answer in answered:
                del self._asked[rank]
                self._heard[rank] = now
                with suppress(RayError):  # it has died, as its run will tell
                    self.activity[rank], beat = ray.get(answer)
                    self.stop_signal = self.stop_signal or beat
        return [rank for rank in actors if now - self._heard[rank] > silence_of(self.timeout)]

    def others(self, rank: int) -> list[str]:
        """The activity of each other worker, as its last answer said."""
        return [f"worker {other}: {activity}" for other, activity in sorted(self.activity.items()) if other != rank]
