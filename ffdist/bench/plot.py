"""Plots of findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ffdist.bench.harness.result import Plot
from ffdist.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ffdist.bench.traced import Traced
    from ffdist.page.spans import PageSpan


def draw(plot: Plot, path: Path) -> None:
    """An SVG file. Raises ConfigError where matplotlib is not installed."""
    with drawing(path, (6.4, 3.4), "a record has a plot") as figure:
        axes = figure.add_subplot()
        (_bars if plot.kind == "bars" else _lines)(plot, axes)
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)


@contextmanager
def drawing(path: Path, size: tuple[float, float], what: str) -> Iterator[Figure]:
    """Write the figure drawn inside the context to `path`, the same bytes each time.

    size: (width, height) in inches. what: the feature that needs it, for the error. Raises ConfigError where matplotlib
    is not installed, or cannot write such a file.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{what}, and matplotlib is missing", where=path, remedy="pip install 'ffdist[bench]'"
        ) from error
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ffdist", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the picture cannot be written", where=path, got=error, expected="a file .svg or .png"
            ) from error


COLOURS = {"forward": "#1f77b4", "backward": "#e0912f", "update": "#8250df", "sends and receives": "#8a939c"}
"""Colours of what stages do; what is left white is waiting."""


def draw_traces(title: str, sides: Sequence[Traced], path: Path) -> None:
    """The sides one above the other, on one scale: a row a stage. Raises ConfigError as `drawing` does."""
    rows = sum(len(side.rows) for side in sides)
    with drawing(path, (8.0, 1.3 + 0.42 * rows + 0.5 * len(sides)), "--trace makes a picture") as figure:
        from matplotlib.patches import Patch

        shares = [len(side.rows) + 0.5 for side in sides]
        all_axes = figure.subplots(len(sides), 1, sharex=True, height_ratios=shares, squeeze=False)[:, 0]
        for side, axes in zip(sides, all_axes, strict=True):
            for place, spans in enumerate(side.rows.values()):
                for kind, colour in COLOURS.items():
                    mine = [(s.begin / 1e3, (s.end - s.begin) / 1e3) for s in spans if kind_of(s) == kind]
                    axes.broken_barh(mine, (place - 0.4, 0.8), facecolors=colour, edgecolors="white", linewidth=0.3)
            axes.set_yticks(range(len(side.rows)), list(side.rows))
            axes.set_title(side.title, loc="left", fontsize=9)
            axes.invert_yaxis()
        all_axes[-1].set_xlabel("milliseconds; white: waiting")
        all_axes[-1].set_xlim(0, max(side.length for side in sides) / 1e3)
        figure.suptitle(title, fontsize=9)
        handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(COLOURS), frameon=False)


def kind_of(span: PageSpan) -> str | None:
    """The kind of work that a span is drawn as; None for waiting."""
    what = span.name.rpartition(" ")[2]
    if span.style == "busy":
        return {"forward": "forward", "update": "update"}.get(what, "backward")
    return "sends and receives" if span.style in ("rest", "exchange") else None


def _bars(plot: Plot, axes) -> None:
    for name, points in plot.series.items():
        _, middle, low, high = points[0]
        axes.barh(name, middle, xerr=[[middle - low], [high - middle]], capsize=3)
    axes.invert_yaxis()


def _lines(plot: Plot, axes) -> None:
    for name, points in plot.series.items():
        x, middle, low, high = zip(*points, strict=True)
        below = [m - a for m, a in zip(middle, low, strict=True)]
        errors = [below, [b - m for m, b in zip(middle, high, strict=True)]]
        axes.errorbar(x, middle, yerr=errors, marker="o", capsize=3, label=name)
    if plot.log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for points in plot.series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if plot.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
