"""The workers of one stage, as one of them sees the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event
from typing import Any, Protocol

from torch import Tensor

from ffdist.errors import StageError
from ffdist.pipeline.trace import Trace
from ffdist.plan import Share
from ffdist.transport.base import Frame, Receiver, Sender

GRADIENTS, SLICES, STATES = "Gradients", "Slices", "States"
"""What travels within a batch: sums of gradients; what became of a worker's slice of them; and all that a block has
learned, from the worker of one batch to the next one's."""


ASK_EVERY = 8
"""Batches of an evaluation from one question whether the run is to end to the next: each waits for all workers."""


class Timer(Protocol):
    """A clock, as `ffdist.pipeline.pulses` has it."""

    def is_due(self) -> bool: ...

    def restart(self) -> None: ...


class StageGroup:
    """Sends to the others of a stage, and takes what they send."""

    def __init__(
        self,
        worker: int,
        shares: Sequence[Share],
        senders: Mapping[int, Sender],
        receivers: Mapping[int, Receiver],
        stop: Event | None = None,
        *,
        by_batch: bool = False,
    ) -> None:
        """senders, receivers: to and from each of the others. stop: on the worker that is told to end the run early.
        by_batch: whether they compute whole batches in turn."""
        self.worker = worker
        self.shares = list(shares)
        self.by_batch = by_batch
        self.lag = max(1, len(self.shares) - 1) if by_batch else 1
        """Batches after the one with which a worker announces something, until all have heard of it."""
        self.senders = senders
        self.receivers = receivers
        self.stop = stop or Event()
        self.stop_step: int | None = None
        """The batch with which the others were told that the run is to end early."""
        self.clock: Timer | None = None
        """Says when a pulse is due: on the worker that tells the others, where they come by time."""
        self.pulse_step: int | None = None
        """The batch with which the others were told of a pulse that is still to come."""
        self.pulsed = -1
        """The batch with which they were told of the last one."""
        self.lent: Callable[[], AbstractContextManager[None]] = nullcontext
        """Within, this worker waits, and its other stages may compute."""
        self.turn: AbstractContextManager[None] = nullcontext()
        """Within, this worker computes, and its other stages wait."""
        self.exchanging = 0.0
        self.waited = 0.0
        """Seconds so far of sending and adding up; of waiting for the others."""
        self.posted: dict[tuple[str, int], float] = {}
        """When this worker's frame of a kind and bucket was on its way."""
        self.overlapped = 0.0
        self.missed = 0.0
        """Seconds so far, of exchanges within batches, that this worker went on with other things; that it waited."""
        self.early: dict[int, dict[tuple[str, int], Frame]] = {worker: {} for worker in receivers}
        """What came before it was asked for."""
        self.take_state: Callable[[Frame], None] | None = None
        """Takes states that come before they are asked for, which else would lie in memory of their own."""
        self.trace = Trace()

    @property
    def others(self) -> list[int]:
        """The stage's other workers, in the order of their lanes."""
        return [share.worker for share in self.shares if share.worker != self.worker]

    @property
    def place(self) -> int:
        """This worker's place among them all, in the order of their lanes."""
        return [share.worker for share in self.shares].index(self.worker)

    @property
    def leads(self) -> bool:
        """True if this is the one that writes what all of them have."""
        return self.place == 0

    @contextmanager
    def exchanges(self, what: str) -> Iterator[None]:
        """A context for this worker's own part of an exchange, beside sending: it counts as exchanging."""
        began = time.perf_counter()
        with self.trace.span(what, "exchange"):
            yield
        self.exchanging += time.perf_counter() - began

    def post(self, frames: Mapping[int, Frame]) -> None:
        """Send each of the others what is for it; returns when it is on its way."""
        began = time.perf_counter()
        kind = next((frame.kind.lower() for frame in frames.values()), "nothing")
        with self.trace.span(f"send {kind}", "exchange"), self.lent():
            for worker, frame in frames.items():
                self.senders[worker].send(frame)
        now = time.perf_counter()
        self.exchanging += now - began
        for frame in frames.values():
            self.posted[frame.kind, frame.fields.get("bucket", 0)] = now

    def post_all(self, frame: Frame) -> None:
        """Send one frame to each of the others."""
        self.post(dict.fromkeys(self.others, frame))

    def take(self, kind: str, bucket: int = 0, workers: Iterable[int] | None = None) -> dict[int, Frame]:
        """The next frame of each of the others, or of these. Raises StageError where one is at another point."""
        asked = self.others if workers is None else workers
        began, exchanging = time.perf_counter(), self.exchanging
        with self.trace.span(f"wait for {kind.lower()}", "no_gradients"), self.lent():
            frames = {worker: self._next(worker, (kind, bucket)) for worker in asked}
        waited = time.perf_counter() - began - (self.exchanging - exchanging)
        self.waited += waited
        posted = self.posted.pop((kind, bucket), began)
        if kind in (GRADIENTS, SLICES):
            self.overlapped += max(0.0, began - posted)
            self.missed += waited
        return frames

    def _next(self, worker: int, wanted: tuple[str, int]) -> Frame:
        """The wanted frame of a worker; what comes before it, and is asked for later, is kept until then."""
        early = self.early[worker]
        while wanted not in early:
            frame = self.receivers[worker].recv()
            key = (frame.kind, frame.fields.get("bucket", 0))
            if self.take_state and frame.kind == STATES:
                self.take_state(frame)
                del frame  # the memory it lies in goes back before the next is asked for
                continue
            if key != wanted and (frame.kind not in (GRADIENTS, SLICES, STATES) or key in early):
                raise StageError(
                    "the workers of a stage are not at the same point",
                    where=f"worker {self.worker}",
                    expected=wanted[0],
                    got=f"{frame.kind} of worker {worker}",
                    remedy="run the same version of ffdist at every stage",
                )
            early[key] = frame
        return early.pop(wanted)

    def gather(self, kind: str, step: int, tensors: dict[str, Tensor], **fields: Any) -> dict[int, Frame]:
        """Gather what each worker has, this one's too, and what each announces."""
        mine = Frame(kind, {**fields, **self.announcements(step)}, tensors)
        self.post_all(mine)
        frames = {self.worker: mine, **self.take(kind)}
        self.receive_announcements(frames.values())
        return frames

    def announcements(self, step: int) -> dict[str, int | None]:
        """The announcements of this worker to the others, sent with any exchange."""
        return {"stop_step": self.announce_stop(step), "pulse": self.announce_pulse(step)}

    def receive_announcements(self, frames: Iterable[Frame]) -> None:
        """Take the others' announcements."""
        for frame in frames:
            if self.stop_step is None:
                self.stop_step = frame.fields["stop_step"]
            pulse = frame.fields.get("pulse")
            if pulse is not None and pulse > self.pulsed:
                self.pulse_step = pulse

    def announce_stop(self, step: int) -> int | None:
        """The batch with which the others are told that the run is to end early; None: it goes on."""
        if self.stop.is_set() and self.stop_step is None:
            self.stop_step = step
        return self.stop_step

    def announce_pulse(self, step: int) -> int | None:
        """The batch with which the others are told of the next pulse; None: it is not due."""
        if self.clock and self.pulse_step is None and self.clock.is_due():
            self.clock.restart()
            self.pulse_step = step
        return self.pulse_step

    def take_pulse(self, step: int) -> bool:
        """True if a pulse is to follow batch `step`: the one with which all have heard of it."""
        if self.pulse_step is None or self.pulse_step + self.lag > step:
            return False
        self.pulsed = self.pulse_step
        self.pulse_step = None
        return True

    def is_stopping(self, step: int, *, waiting: bool = True) -> bool:
        """True if the run is to end after batch `step`, the same on every worker: what came with an exchange is known
        to all when the next batch's first block has been computed; and at once where nothing is under way."""
        return self.stop_step is not None and self.stop_step <= step - (self.lag if waiting else 0)

    def is_stopping_evaluation(self, step: int, batch: int) -> bool:
        """True if the run is to end before batch `batch` of an evaluation, the same on every worker: nothing is
        exchanged within one, so they tell each other every `ASK_EVERY` batches."""
        if batch % ASK_EVERY:
            return False
        times = self.exchanging, self.waited
        with self.turn:  # the source is asked for a batch outside of it
            self.gather("Evaluating", step, {})
        self.exchanging, self.waited = times  # it counts as waiting for the source's batch
        return self.stop_step is not None
