"""Discrete events: processes are generators that yield seconds to wait, or a signal to wait for."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from itertools import count


class OneShotEvent:
    """Fires once; who waits for it goes on, and who comes later does not wait."""

    def __init__(self) -> None:
        self.fired = False
        self.waiting: list[Process] = []


Process = Generator["float | OneShotEvent", None, None]


class EventQueue:
    """Simulated events, in the order of time; at one time in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._due: list[tuple[float, int, Process | OneShotEvent]] = []

    def start(self, process: Process) -> None:
        """Begin a process, now."""
        self._at(self.now, process)

    def fire(self, signal: OneShotEvent, delay: float = 0.0) -> None:
        """Now, or so many seconds from now."""
        self._at(self.now + delay, signal)

    def run(self) -> None:
        """Run until nothing is left to happen."""
        while self._due:
            self.now, _, due = heapq.heappop(self._due)
            if isinstance(due, OneShotEvent):
                due.fired = True
                for process in due.waiting:
                    self._at(self.now, process)
                due.waiting = []
            else:
                self._go_on(due)

    def _go_on(self, process: Process) -> None:
        for wanted in process:
            if isinstance(wanted, OneShotEvent):
                if wanted.fired:
                    continue
                wanted.waiting.append(process)
            else:
                self._at(self.now + wanted, process)
            return

    def _at(self, time: float, due: Process | OneShotEvent) -> None:
        heapq.heappush(self._due, (time, next(self._numbers), due))


class CorePool:
    """Cores of which so many compute at once; who comes later waits for one. None: all may."""

    def __init__(self, events: EventQueue, number: float | None) -> None:
        self.events = events
        self.free = number
        self.queue: deque[OneShotEvent] = deque()

    def compute(self, seconds: float) -> Process:
        """Compute for so long, on a core of one's own."""
        yield from self.during(waiting(seconds))

    def during(self, process: Process) -> Process:
        """Go through a process, on a core of one's own."""
        if self.free is None:
            yield from process
            return
        if self.free >= 1:
            self.free -= 1
        else:
            turn = OneShotEvent()
            self.queue.append(turn)
            yield turn
        yield from process
        if self.queue:
            self.events.fire(self.queue.popleft())
        else:
            self.free += 1


def waiting(seconds: float) -> Process:
    """Wait for so long."""
    yield seconds


class WorkerLinks:
    """Each worker's link: one message at a time in each direction, in order. What has left waits between the two, where
    the receiver's is taken, and keeps nothing else from leaving."""

    def __init__(self, events: EventQueue, workers: int) -> None:
        self.events = events
        self.out = [0.0] * workers
        self.back = [0.0] * workers

    def carry(self, sender: int, receiver: int, seconds: float) -> Process:
        """Go on when one has sent, and the other received, for so long."""
        yield self._reserve(self.out, sender, seconds) - seconds
        yield self._reserve(self.back, receiver, seconds)

    def exchange(self, workers: list[int], seconds: float) -> float:
        """Seconds from now until each has sent to the others, and received, for so long; each from when its own link
        is free."""
        return max(self._reserve(ends, worker, seconds) for worker in workers for ends in (self.out, self.back))

    def _reserve(self, ends: list[float], worker: int, seconds: float) -> float:
        """Seconds from now until a direction of a worker's link has carried for so long, behind what it has to."""
        ends[worker] = max(self.events.now, ends[worker]) + seconds
        return ends[worker] - self.events.now
