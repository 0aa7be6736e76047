"""The spans of a run's trace, as a page draws them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ffdist.page.text import number
from ffdist.pipeline.trace import Category
from ffdist.runtime.tracing import TRACE

LARGEST = 256 * 2**20
"""Bytes of a trace that is read for a page."""
STYLES = {name: name for name in get_args(Category)} | {
    "compute": "busy",
    "receive": "rest",
    "send": "rest",
    "snapshot": "rest",
}
"""How a span of a category is drawn: as the part of a stage's time that it is."""


@dataclass(frozen=True)
class PageSpan:
    """A span of a trace in one row; times in microseconds since the trace's beginning."""

    row: str
    name: str
    style: str
    begin: float
    end: float
    place: tuple[float, float] = (0, 0)
    """The place of its row among the others."""


def read_trace(run: Path) -> list[PageSpan]:
    """Spans of a run's trace; none where there is none that can be read."""
    path = run / TRACE
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return []
        trace = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return spans_of(trace.get("traceEvents") if isinstance(trace, dict) else trace)


def spans_of(events: Any) -> list[PageSpan]:
    """Spans of events in Chrome's trace format; what is none is left out."""
    known = [each for each in events if isinstance(each, dict)] if isinstance(events, list) else []
    named = [e for e in known if e.get("ph") == "M" and isinstance(e.get("args"), dict)]
    processes = {str(e.get("pid")): str(e["args"].get("name")) for e in named if e.get("name") == "process_name"}
    threads = {
        (str(e.get("pid")), str(e.get("tid"))): str(e["args"].get("name"))
        for e in named
        if e.get("name") == "thread_name"
    }
    return [span for event in known if (span := span_of(event, processes, threads)) is not None]


def span_of(event: dict[str, Any], processes: dict[str, str], threads: dict[tuple[str, str], str]) -> PageSpan | None:
    """The span of one event; None for an event of another type, or without times."""
    begin, took = number(event.get("ts")), number(event.get("dur"))
    if event.get("ph") != "X" or begin is None or took is None:
        return None
    pid, tid = event.get("pid"), event.get("tid")
    row = f"{processes.get(str(pid), f'process {pid}')}, {threads.get((str(pid), str(tid)), f'thread {tid}')}"
    style = STYLES.get(str(event.get("cat")), "busy")
    return PageSpan(row, str(event.get("name", "")), style, begin, begin + took, (number(pid) or 0, number(tid) or 0))


def without_overlap(spans: Iterable[PageSpan]) -> list[PageSpan]:
    """The spans of one row so that none lies over another: what lies within one cuts it."""
    made, under = list[PageSpan](), list[PageSpan]()
    for span in sorted(spans, key=lambda each: (each.begin, -each.end)):
        while under and under[-1].end <= span.begin:
            made.append(under.pop())
        if under:
            below = under.pop()
            made.append(replace(below, end=span.begin))
            under.append(replace(below, begin=min(span.end, below.end)))
        under.append(span)
    return [span for span in (*made, *under) if span.end > span.begin]
