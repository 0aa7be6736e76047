"""Lanes of a batch that go through a block side by side, because they need something of one another on the way.

One lane computes at a time, in a thread of its own, until it comes to a point where it needs what all lanes have
there; when all have come, those of other workers too, they go on. Each finds the gradients and the random generators as
it left them, so what it computes is what it would compute alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from threading import Event, Semaphore
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ffdist.device import enter
from ffdist.errors import NetworkError
from ffdist.pipeline.block import LearningBlock
from ffdist.seeds import generators_lent

R = TypeVar("R")
Exchange = Callable[[dict[int, Tensor]], dict[int, Tensor]]
"""This worker's lanes' values -> all lanes'."""


class EndedError(Exception):
    """A lane is not to go on, because another has failed."""


@dataclass
class Lane(Generic[R]):
    """One lane of a batch, at work or waiting for the others."""

    number: int
    leads: bool
    """Whether it is the first of all lanes that have samples."""
    runs_alone: bool
    """Whether no other is computed here."""
    exchange: Exchange
    turn: Semaphore = field(default_factory=lambda: Semaphore(0))
    """Released when it may go on."""
    paused: Semaphore = field(default_factory=lambda: Semaphore(0))
    """Released when it has come to where it needs the others, or to its end."""
    said: Tensor | None = None
    """What it has given to the others where it waits."""
    heard: dict[int, Tensor] = field(default_factory=dict)
    """All lanes' values, by their numbers, for when it goes on."""
    ended: Event = field(default_factory=Event)
    broken: bool = False
    """Whether it is not to go on: `meet` raises EndedError then."""
    result: Any = None
    error: BaseException | None = None
    gradients: list[Tensor | None] = field(default_factory=list)

    def meet(self, value: Tensor) -> dict[int, Tensor]:
        """Give `value` for this lane, and return those of all lanes."""
        # the lane waits within `seeded`: others need the generators to come to this point at all
        with generators_lent():
            if self.runs_alone:
                return self.exchange({self.number: value})
            self.said = value
            self.paused.release()
            self.turn.acquire()
        if self.broken:
            raise EndedError
        return self.heard


LANE: ContextVar[Lane[Any] | None] = ContextVar("the lane that is computed", default=None)
"""None where lanes are computed one after another."""


class Lockstep:
    """Runs one worker's lanes, of which one computes at a time: two semaphores a lane pass the turn to and fro."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: ThreadPoolExecutor | None = None

    def run(
        self,
        block: LearningBlock,
        work: Mapping[int, Callable[[], R]],
        exchange: Exchange,
        leader: int,
        *,
        resumed: Callable[[int], None] = lambda lane: None,
        left: Callable[[int], None] = lambda lane: None,
    ) -> dict[int, tuple[R, list[Tensor | None]]]:
        """Run each lane, and return its value and the gradients of the block that it has made.

        leader: the first of all lanes that have samples. resumed, left: called for each lane before it goes on, and
        when it has come to where it waits, or to its end; no lane is at work then. Raises the first lane's error;
        NetworkError where they do not all come to the same points.
        """
        self.block = block
        self.parameters = block.learned
        lanes = [Lane[R](number, number == leader, len(work) == 1, exchange) for number in work]
        self.exchange = exchange
        if len(lanes) == 1:
            number = block.lane = lanes[0].number
            resumed(number)
            result = self._alone(lanes[0], work[number])
            left(number)
            return {number: (result, self._take_gradients())}
        if self.pool is None:
            self.pool = ThreadPoolExecutor(len(lanes), "ffdist lane")
        threads = torch.get_num_threads()
        for lane in lanes:
            lane.gradients = [None] * len(self.parameters)
            self.pool.submit(copy_context().run, self._run_lane, lane, work[lane.number], threads)
        try:
            while not all(lane.ended.is_set() for lane in lanes):
                self._round(lanes, resumed, left)
        finally:
            self._end(lanes)
        return {lane.number: (lane.result, lane.gradients) for lane in lanes}

    def _alone(self, lane: Lane[R], work: Callable[[], R]) -> R:
        token = LANE.set(lane)
        try:
            return work()
        finally:
            LANE.reset(token)

    def _run_lane(self, lane: Lane[R], work: Callable[[], R], threads: int) -> None:
        """One lane's thread, from its first turn to its end."""
        lane.turn.acquire()
        try:
            if not lane.broken:
                torch.set_num_threads(threads)  # each thread has a number of its own
                enter(self.device)
                lane.result = self._alone(lane, work)
        except BaseException as error:  # raised again by the one that waits
            lane.error = error
        finally:
            lane.ended.set()
            lane.paused.release()

    def _round(self, lanes: Sequence[Lane[Any]], resumed: Callable[[int], None], left: Callable[[int], None]) -> None:
        """Each lane goes on to where it needs the others, or to its end."""
        for lane in lanes:
            self.block.lane = lane.number
            for parameter, gradient in zip(self.parameters, lane.gradients, strict=True):
                parameter.grad = gradient
            resumed(lane.number)
            lane.turn.release()
            lane.paused.acquire()
            left(lane.number)
            lane.gradients = self._take_gradients()
            if lane.error:
                raise lane.error
        waiting = [lane for lane in lanes if not lane.ended.is_set()]
        if len(waiting) not in (0, len(lanes)):
            raise NetworkError(
                "lanes of a batch take different paths through a block, and cannot be synchronised",
                expected="the same norms for every lane, in one order",
            )
        if waiting:
            heard = self.exchange({lane.number: lane.said for lane in lanes if lane.said is not None})
            for lane in lanes:
                lane.heard = heard

    def _take_gradients(self) -> list[Tensor | None]:
        found = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return found

    def _end(self, lanes: Sequence[Lane[Any]]) -> None:
        """Called after an error: lanes that wait are woken to raise EndedError, so that the pool's threads are free
        again."""
        for lane in lanes:
            if not lane.ended.is_set():
                lane.broken = True
                lane.turn.release()
                lane.ended.wait()

    def close(self) -> None:
        """End the threads; no lane may run any more."""
        if self.pool:
            self.pool.shutdown()
