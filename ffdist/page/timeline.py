"""A window of a run's trace: which stage did what, when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ffdist.page.charts import PARTS, Chart
from ffdist.page.spans import PageSpan, without_overlap
from ffdist.page.svg import WIDTH, figure, hatching, part_swatch
from ffdist.page.text import escaped, visible
from ffdist.runtime.tracing import TRACE

MAX_SPANS = 900
WINDOW = 0.25
"""Seconds of the trace that are shown."""
WORDS = PARTS | {"rest": "receiving, sending, snapshots"}


def timeline_chart(spans: Sequence[PageSpan], key: str) -> Chart | None:
    """The middle of the trace, a row for each stage on each worker; None where nothing was traced."""
    if not spans:
        return None
    first, last = min(s.begin for s in spans), max(s.end for s in spans)
    middle, half = (first + last) / 2, min(WINDOW * 1e6, last - first) / 2
    inside = [s for s in spans if s.end > middle - half and s.begin < middle + half]
    while len(inside) > MAX_SPANS and half > 1:
        half /= 1.5
        inside = [s for s in inside if s.end > middle - half and s.begin < middle + half]
    rows = rows_of(inside, middle - half, middle + half)
    if not rows:
        return None
    drawing = timeline_body(rows, middle - half, 2 * half, key)
    shares = {row: shares_of(each, 2 * half) for row, each in rows.items()}
    used = [style for style in WORDS if any(found.get(style, 0.0) >= 0.005 for found in shares.values())]
    table = [[visible(row), *(f"{found.get(style, 0.0):.0%}" for style in used)] for row, found in shares.items()]
    description = "; ".join(f"{row}: computing {found.get('busy', 0.0):.0%}" for row, found in shares.items())
    title = f"{2 * half / 1000:.3g} ms from the middle of the trace"
    return Chart(
        title,
        figure(key, title, description, drawing, 38.0 * len(rows)),
        [(part_swatch(key, style), WORDS[style]) for style in used],
        ["", *(WORDS[s] for s in used)],
        table,
        f"Times of the run's own trace; all of it is in {TRACE}, for ui.perfetto.dev.",
        key,
    )


def rows_of(spans: Sequence[PageSpan], begin: float, end: float) -> dict[str, list[PageSpan]]:
    """The spans within two times, row by row, side by side."""
    found: dict[str, list[PageSpan]] = {}
    for span in sorted(spans, key=lambda each: each.place):
        found.setdefault(span.row, []).append(replace(span, begin=max(begin, span.begin), end=min(end, span.end)))
    return {row: without_overlap(each) for row, each in found.items()}


def timeline_body(rows: dict[str, list[PageSpan]], begin: float, length: float, key: str) -> list[str]:
    """The drawing's rows, each a name and a bar of its spans."""
    scale, body = WIDTH / max(length, 1e-9), [hatching(key)]
    for place, (row, spans) in enumerate(rows.items()):
        top = place * 38.0
        body.append(f'<text x="0" y="{top + 12:.1f}">{escaped(row)}</text>')
        for s in spans:
            x, width = (s.begin - begin) * scale, max(0.3, (s.end - s.begin) * scale)
            box = f'x="{x:.1f}" y="{top + 17:.1f}" width="{width:.1f}" height="14"'
            title = f"<title>{escaped(s.name)}, {(s.end - s.begin) / 1000:.3g} ms</title>"
            body.append(
                f'<g class="part {s.style}">{title}<rect class="fill" {box}/>'
                f'<rect fill="url(#{key}-{s.style})" {box}/></g>'
            )
    return body


def shares_of(spans: Sequence[PageSpan], whole: float) -> dict[str, float]:
    """Shares of a row's time, by how it is drawn."""
    found: dict[str, float] = {}
    for span in spans:
        found[span.style] = found.get(span.style, 0.0) + (span.end - span.begin) / max(whole, 1e-9)
    return found
