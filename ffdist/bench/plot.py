"""Plots of findings."""

from __future__ import annotations

from pathlib import Path

from ffdist.bench.finding import Plot
from ffdist.errors import ConfigError


def draw(plot: Plot, path: Path) -> None:
    """An SVG file. Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ConfigError("a record has a plot, and matplotlib is missing", where="--record",
                          remedy="pip install 'ffdist[bench]'") from error  # fmt: skip
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ffdist", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        (_bars if plot.kind == "bars" else _lines)(plot, axes)
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        figure.savefig(path, metadata={"Date": None})


def _bars(plot: Plot, axes) -> None:
    for name, points in plot.series.items():
        _, middle, least, most = points[0]
        axes.barh(name, middle, xerr=[[middle - least], [most - middle]], capsize=3)
    axes.invert_yaxis()


def _lines(plot: Plot, axes) -> None:
    for name, points in plot.series.items():
        x, middle, least, most = zip(*points, strict=True)
        below = [m - a for m, a in zip(middle, least, strict=True)]
        errors = [below, [b - m for m, b in zip(middle, most, strict=True)]]
        axes.errorbar(x, middle, yerr=errors, marker="o", capsize=3, label=name)
    if plot.log_x:
        axes.set_xscale("log", base=2)
        ticks = sorted({point[0] for points in plot.series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
