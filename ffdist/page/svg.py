"""Charts as inline SVG: curves, and bars of several parts. Colours are the style sheet's, so that one drawing is right
in the light, in the dark and on paper; what they tell, dashes, hatching and texts tell too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ffdist.page.text import escaped, evenly

WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
COLOURS, DASHES = 8, 5
"""Numbers of colours and of dashes, whose combinations tell 40 curves apart."""
MAX_POINTS = 120
DOTS = 24
"""Curves of at most so many points have each point marked."""


@dataclass(frozen=True)
class ChartCurve:
    """Points (x, y) in order; where the run has no number there is a gap, y None."""

    name: str
    points: Sequence[tuple[float, float | None]]

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that have a number."""
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Axis:
    """An axis: its label, and how its numbers are written."""

    label: str
    write: Callable[[float], str] = "{:g}".format
    whole: bool = False
    """Whether between whole numbers there is nothing."""


@dataclass(frozen=True)
class BarPart:
    """A part of a bar: its size, and how it is told apart."""

    name: str
    size: float
    text: str
    style: str


def ticks(low: float, high: float, wanted: int, *, whole: bool = False) -> list[float]:
    """Round numbers between two, about so many; at least one."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / max(1, wanted)
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    step = max(1, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def curves_chart(key: str, title: str, curves: Iterable[ChartCurve], x: Axis, y: Axis) -> Markup:
    """Curves over one axis, or nothing where no point is known.

    key: makes ids that are this chart's alone on the page.
    """
    drawn = [curve for curve in curves if curve.known]
    if not drawn:
        return Markup("")
    xs = [px for curve in drawn for px, _ in curve.known]
    ys = [py for curve in drawn for _, py in curve.known]
    low, high = min(ys), max(ys)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    frame = ChartFrame(min(xs), max(xs), low - pad if low != 0 else 0.0, high + pad)
    body = [*grid(frame, x, y)]
    for index, curve in enumerate(drawn):
        body.append(path(frame, curve, index, x, y))
    return figure(key, title, described(drawn, x, y), body, HEIGHT)


@dataclass(frozen=True)
class ChartFrame:
    """A map from numbers to places in the drawing."""

    x0: float
    x1: float
    y0: float
    y1: float

    def to_x(self, x: float) -> float:
        """The horizontal place of a number, in the drawing's units."""
        inside = WIDTH - LEFT - RIGHT
        return LEFT + (inside * (x - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else inside / 2)

    def to_y(self, y: float) -> float:
        """The vertical place of a number, in the drawing's units; larger numbers are higher."""
        inside = HEIGHT - TOP - BOTTOM
        return TOP + inside - (inside * (y - self.y0) / (self.y1 - self.y0) if self.y1 > self.y0 else inside / 2)


def grid(frame: ChartFrame, x: Axis, y: Axis) -> Iterable[str]:
    """Lines and numbers of both axes, and their names."""
    for value in ticks(frame.y0, frame.y1, 5):
        at = frame.to_y(value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{escaped(y.write(value))}</text>'
    for value in ticks(frame.x0, frame.x1, 6, whole=x.whole):
        at = frame.to_x(value)
        yield f'<path class="tick" d="M{at:.1f} {HEIGHT - BOTTOM}v4"/>'
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escaped(x.write(value))}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    yield f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escaped(x.label)}</text>'


def path(frame: ChartFrame, curve: ChartCurve, index: int, x: Axis, y: Axis) -> str:
    """A curve, broken where it has no number; of few points each is marked, and says what it is."""
    points = evenly(curve.points, MAX_POINTS)
    steps, pen = [], "M"
    for px, py in points:
        if py is None:
            pen = "M"
            continue
        steps.append(f"{pen}{frame.to_x(px):.1f} {frame.to_y(py):.1f}")
        pen = "L"
    marks = curve.known if len(curve.known) <= DOTS else curve.known[-1:]
    dots = [
        f'<circle cx="{frame.to_x(px):.1f}" cy="{frame.to_y(py):.1f}" r="2.6"><title>{escaped(curve.name)}, '
        f"{escaped(x.label)} {escaped(x.write(px))}: {escaped(y.write(py))}</title></circle>"
        for px, py in marks
    ]
    return f'<g class="curve {style_of(index)}"><path d="{"".join(steps)}"/>{"".join(dots)}</g>'


def style_of(index: int) -> str:
    """The classes that colour and dash the curve of that place."""
    return f"c{index % COLOURS} d{(index + index // COLOURS) % DASHES}"


def described(curves: Sequence[ChartCurve], x: Axis, y: Axis) -> str:
    """The description of the drawing for those who do not see it."""
    texts = [
        f"{curve.name}: from {y.write(curve.known[0][1])} to {y.write(curve.known[-1][1])}"
        for curve in evenly(curves, 8)
    ]
    return f"Over {x.label}. {'; '.join(texts)}."


def figure(key: str, title: str, description: str, body: Iterable[str], height: float, width: float = WIDTH) -> Markup:
    """A drawing with a name and a description."""
    return Markup(
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escaped(title)}</title><desc id="{key}-d">{escaped(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def swatch(index: int) -> Markup:
    """The sample of a curve, for a legend beside its name."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true"><g class="curve {style_of(index)}">'
        '<path d="M1 5H33"/><circle cx="17" cy="5" r="2.6"/></g></svg>'
    )


def bars_chart(key: str, title: str, rows: Sequence[tuple[str, Sequence[BarPart]]], total: float) -> Markup:
    """A bar a row, of parts in a row that add up to `total` at most; their texts stand where there is room."""
    top, body = 0.0, [hatching(key)]
    for name, parts in rows:
        body.append(f'<text x="0" y="{top + 12:.1f}">{escaped(name)}</text>')
        at = 0.0
        for part in parts:
            width = WIDTH * part.size / total if total > 0 else 0.0
            if width >= 0.05:
                body.append(bar(key, name, part, (at, top + 17, width)))
            at += width
        top += 17 + THICK + 10
    description = "; ".join(
        f"{name}: {', '.join(f'{p.name} {p.text}' for p in parts if p.size > 0)}" for name, parts in rows
    )
    return figure(key, title, description, body, top)


def bar(key: str, row: str, part: BarPart, place: tuple[float, float, float]) -> str:
    """One part, with its text on a plate where there is room. place: x, y and width."""
    x, y, width = place
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{THICK}"'
    title = f"<title>{escaped(f'{row}: {part.name} {part.text}')}</title>"
    drawn = f'{title}<rect class="fill" {box}/><rect fill="url(#{key}-{part.style})" {box}/>'
    letters = len(part.text)
    if width >= 7.2 * letters + 9:
        plate = f'x="{x + 2:.1f}" y="{y + 3:.1f}" width="{7.2 * letters + 5:.1f}" height="16" rx="2"'
        drawn += f'<rect class="plate" {plate}/><text x="{x + 5:.1f}" y="{y + 15:.1f}">{escaped(part.text)}</text>'
    return f'<g class="part {part.style}">{drawn}</g>'


THICK = 22
HATCHES = {
    "busy": "",
    "exchange": "M0 3H6",
    "no_gradients": "M0 3H6M3 0V6",
    "no_data": "M0 6L6 0",
    "no_credit": "M0 0L6 6",
    "rest": "M3 3h.5",
    "run": "",
    "process": "M0 6L6 0",
}


def hatching(key: str) -> str:
    """Patterns, so that no part is told by its colour alone."""
    made = [
        f'<pattern id="{key}-{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path class="line" d="{lines}"/></pattern>'
        for name, lines in HATCHES.items()
    ]
    return f"<defs>{''.join(made)}</defs>"


def part_swatch(key: str, style: str) -> Markup:
    """The sample of a part of bars; key: of a chart that is on the page."""
    return Markup(
        f'<svg class="swatch box" viewBox="0 0 16 12" aria-hidden="true"><g class="part {style}">'
        f'<rect class="fill" width="16" height="12"/><rect fill="url(#{key}-{style})" width="16" height="12"/>'
        "</g></svg>"
    )
