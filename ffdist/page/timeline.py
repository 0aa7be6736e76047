"""A window of a run's trace: which stage did what, when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffdist.page.charts import Chart
from ffdist.page.svg import WIDTH, figure, hatching, part_swatch
from ffdist.page.text import escaped, number, visible

TRACE = "trace.json"
LARGEST = 256 * 2**20
"""Bytes of a trace that is read for a page."""
MOST_SPANS = 900
WINDOW = 0.25
"""Seconds that are shown."""
KINDS = {"no_data": ("wait for data", "receive", "no data"), "no_credit": ("wait for credit", "no credit", "send"),
         "exchange": ("exchange", "gradient")}  # fmt: skip
"""Words in a span's name or category, by how it is drawn; all else is computing."""
WORDS = {"busy": "computing", "exchange": "adding gradients", "no_data": "waiting for data, or receiving",
         "no_credit": "waiting for room, or sending"}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Microseconds from the trace's first to its last, in one row."""

    row: str
    name: str
    kind: str
    begin: float
    end: float


def read_trace(run: Path) -> list[Span]:
    """Spans of a Chrome trace in the run's folder; none where there is none that can be read."""
    path = run / TRACE
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return []
        told = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return []
    events = told.get("traceEvents") if isinstance(told, dict) else told
    known = [each for each in events if isinstance(each, dict)] if isinstance(events, list) else []
    names = {(e.get("ph"), e.get("name"), e.get("pid"), e.get("tid")): str((e.get("args") or {}).get("name", ""))
             for e in known if e.get("ph") == "M"}  # fmt: skip
    return [span for event in known if (span := span_of(event, names)) is not None]


def span_of(event: dict[str, Any], names: dict[tuple[Any, ...], str]) -> Span | None:
    begin, took = number(event.get("ts")), number(event.get("dur"))
    if event.get("ph") != "X" or begin is None or took is None:
        return None
    pid, tid = event.get("pid"), event.get("tid")
    process = names.get(("M", "process_name", pid, tid)) or next(
        (name for (_, kind, p, _), name in names.items() if kind == "process_name" and p == pid), f"process {pid}"
    )
    thread = names.get(("M", "thread_name", pid, tid), "")
    text = f"{event.get('name', '')} {event.get('cat', '')}".lower()
    kind = next((kind for kind, words in KINDS.items() if any(word in text for word in words)), "busy")
    return Span(f"{process} {thread}".strip(), str(event.get("name", "")), kind, begin, begin + took)


def timeline_chart(spans: Sequence[Span], key: str) -> Chart | None:
    """The middle of the trace, a row for each worker; None where nothing was traced."""
    if not spans:
        return None
    first, last = min(s.begin for s in spans), max(s.end for s in spans)
    middle, half = (first + last) / 2, min(WINDOW * 1e6, last - first) / 2
    inside = [s for s in spans if s.end > middle - half and s.begin < middle + half]
    while len(inside) > MOST_SPANS and half > 1:
        half /= 1.5
        inside = [s for s in inside if s.end > middle - half and s.begin < middle + half]
    rows = sorted({s.row for s in inside})
    scale, body = WIDTH / max(2 * half, 1e-9), [hatching(key)]
    for place, row in enumerate(rows):
        top = place * 38.0
        body.append(f'<text x="0" y="{top + 12:.1f}">{escaped(row)}</text>')
        for s in inside:
            if s.row == row:
                begin, end = max(0.0, (s.begin - middle + half) * scale), min(WIDTH, (s.end - middle + half) * scale)
                box = f'x="{begin:.1f}" y="{top + 17:.1f}" width="{max(0.3, end - begin):.1f}" height="14"'
                told = f"<title>{escaped(s.name)}, {(s.end - s.begin) / 1000:.3g} ms</title>"
                body.append(f'<g class="part {s.kind}">{told}<rect class="fill" {box}/>'
                            f'<rect fill="url(#{key}-{s.kind})" {box}/></g>')  # fmt: skip
    if not rows:
        return None
    table = [[visible(row), *(share(inside, row, kind, 2 * half) for kind in WORDS)] for row in rows]
    told = "; ".join(f"{row[0]}: computing {row[1]}" for row in table)
    title = f"{2 * half / 1000:.3g} ms from the middle of the trace"
    return Chart(title, figure(key, title, told, body, 38.0 * len(rows)),
                 [(part_swatch(key, kind), words) for kind, words in WORDS.items()], ["worker", *WORDS.values()], table,
                 "Times of the run's own trace.", key)  # fmt: skip


def share(spans: Sequence[Span], row: str, kind: str, whole: float) -> str:
    return f"{sum(s.end - s.begin for s in spans if s.row == row and s.kind == kind) / max(whole, 1e-9):.0%}"
