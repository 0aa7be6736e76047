"""Spans of a stage's work within a window of batches, for the run's trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from ffdist.device import CPU, queues, recorded, seconds_between, synchronize
from ffdist.pipeline.message import EvalBatch, Message, TrainBatch, Written
from ffdist.pipeline.turn import Outbox

Category = Literal["compute", "receive", "send", "exchange", "no_data", "no_credit", "no_gradients", "snapshot"]
"""The category of a span. The waits have the names that the times of a run log have."""
MAX_SPANS = 200_000
"""Spans that are kept of a stage; what comes later is left out, and said."""


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """Nanoseconds of this process's clock, `time.perf_counter_ns`."""

    name: str
    category: Category
    begin: int
    end: int
    step: int
    on_device: bool = False
    """Whether it is what an accelerator did, beside this thread."""


class Trace:
    """The spans of one stage on one worker, from batch `window.start` to before `window.stop`, and of what lies
    between them. `save` gets them with the first marker after the window, before that is passed on: so whoever hears
    of the marker finds them all. Without a window it costs nothing."""

    def __init__(
        self,
        window: range = range(0),
        device: torch.device = CPU,
        save: Callable[[Sequence[TraceSpan], bool], None] = lambda spans, truncated: None,
    ) -> None:
        """save: gets the spans, and whether some were left out."""
        self.window = window
        self.device = device
        self.save = save
        self.active = False
        self.step = 0
        self.spans: list[TraceSpan] = []
        self.left_out = False
        self.queued: list[tuple[str, torch.Event, torch.Event, int]] = []
        """What was given to an accelerator: when it began and ended is asked when the window is over."""
        self.anchor: tuple[torch.Event, int] | None = None

    def meet(self, message: Message, *, last: bool) -> None:
        """Called before a message is handled. last: whether nothing follows it."""
        match message:
            case TrainBatch(step=step):
                self.step = step
                if step in self.window and not self.active:
                    self._open()
                elif step >= self.window.stop:
                    self.active = False
            case EvalBatch() | Written():
                pass
            case _ if self.window and (last or self.step >= self.window.stop - 1):
                self._close()

    @contextmanager
    def span(self, name: str, category: Category) -> Iterator[None]:
        """Time the work done within. What is computed is timed where it is: on an accelerator, too."""
        if not self.active:
            yield
            return
        device = category == "compute" and self.anchor is not None
        began, begin = recorded(self.device, timing=True) if device else None, time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, category, begin, time.perf_counter_ns())
            if began is not None and len(self.queued) < MAX_SPANS:
                self.queued.append((name, began, recorded(self.device, timing=True), self.step))

    def add(self, name: str, category: Category, begin: int, end: int) -> None:
        """Keep a span from `begin` to `end`, nanoseconds of `time.perf_counter_ns`; nothing outside of the window."""
        if self.active and end > begin:
            self.left_out = len(self.spans) >= MAX_SPANS
            if not self.left_out:
                self.spans.append(TraceSpan(name, category, begin, end, self.step))

    def receiving(self, inbox: Iterable[Message]) -> Iterator[Message]:
        """The same messages; what was waited for each, and how long it took to take it."""
        begin, before = time.perf_counter_ns(), waited_for(inbox)
        for message in inbox:
            if self.active:
                ready = waited_until(begin, waited_for(inbox), before)
                self.add(f"wait for {name_of(message)}", "no_data", begin, ready)
                self.add(f"receive {name_of(message)}", "receive", ready, time.perf_counter_ns())
            yield message
            del message  # the memory it lies in goes back before the next is asked for
            begin, before = time.perf_counter_ns(), waited_for(inbox)

    def sending(self, outbox: Outbox) -> Outbox:
        """The same outbox; what was waited for room, and how long it took to send."""
        return TracedOutbox(outbox, self) if self.window else outbox

    def _open(self) -> None:
        self.active = True
        # one moment on both clocks: a device's event is placed by its time since this one
        if queues(self.device) and self.anchor is None:
            anchor = recorded(self.device, timing=True)
            synchronize(self.device)
            self.anchor = anchor, time.perf_counter_ns()

    def _close(self) -> None:
        for name, begin, end, step in self.queued if self.anchor else ():
            assert self.anchor
            event, at = self.anchor
            first, last = (at + round(seconds_between(event, each) * 1e9) for each in (begin, end))
            self.spans.append(TraceSpan(name, "compute", first, last, step, on_device=True))
        self.save(self.spans, self.left_out)
        self.active, self.window, self.spans, self.queued = False, range(0), [], []


class TracedOutbox:
    """An outbox whose sending is traced."""

    def __init__(self, outbox: Outbox, trace: Trace) -> None:
        self.outbox = outbox
        self.trace = trace

    @property
    def waited(self) -> float:
        return self.outbox.waited

    def send(self, message: Message) -> None:
        begin, before, name = time.perf_counter_ns(), self.outbox.waited, name_of(message)
        self.outbox.send(message)
        ready = waited_until(begin, self.outbox.waited, before)
        self.trace.add(f"wait for room for {name}", "no_credit", begin, ready)
        self.trace.add(f"send {name}", "send", ready, time.perf_counter_ns())


def waited_until(begin: int, waited: float | None, before: float | None) -> int:
    """The moment when the waiting was over, by how long it took; now where that is not known."""
    now = time.perf_counter_ns()
    return now if waited is None or before is None else min(now, begin + round((waited - before) * 1e9))


def waited_for(inbox: object) -> float | None:
    """Seconds that an inbox has waited so far; None for one that does not tell, such as the source."""
    return getattr(inbox, "waited", None)


def name_of(message: Message) -> str:
    match message:
        case TrainBatch(step=step):
            return f"batch {step}"
        case EvalBatch(split=split, number=number):
            return f"{split} {number}"
        case _:
            return type(message).__name__
