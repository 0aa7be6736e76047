"""`ffdist bench`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, get_args

import tyro

from ffdist.bench.settings import BenchSettings, Theme
from ffdist.errors import ConfigError
from ffdist.known import MODEL_PLACES, Known, baseline_names
from ffdist.plain import PlainConsole
from ffdist.runtime.interrupts import handle_signals, unwind

if TYPE_CHECKING:
    from ffdist.bench.finding import Finding, Progress

THEMES: Known[Callable[[BenchSettings, Progress], Finding]] = Known(
    {name: f"ffdist.bench.themes.{name}:{name}" for name in get_args(Theme) if name != "all"}
)
NAMES = f"""Models: {", ".join(MODEL_PLACES)}.
Baselines: {", ".join(baseline_names())}, ff.
"""


@dataclass(frozen=True)
class Bench:
    """Measure ffdist against backpropagation, side by side on this machine."""

    theme: Annotated[Theme, tyro.conf.Positional]
    """What to measure."""
    settings: Annotated[BenchSettings, tyro.conf.arg(name="")] = field(default_factory=BenchSettings)


def main(args: Sequence[str]) -> None:
    bench = tyro.cli(Bench, args=list(args), prog="ffdist bench", description=f"{Bench.__doc__}\n\n{NAMES}")
    settings = bench.settings
    check(bench.theme, settings)
    handle_signals(unwind)  # its processes end with it
    run(bench.theme, settings, args)


def run(theme: Theme, settings: BenchSettings, args: Sequence[str]) -> None:
    """Measure; show, and record."""
    from ffdist.bench.hosts import why_not  # behind the parsing: they import torch
    from ffdist.bench.record import write_record

    # read when the processes load their libraries, before any of our code can say it
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    console = PlainConsole(stderr=True)
    themes = list(THEMES) if theme == "all" else [theme]
    if theme == "all" and (reason := why_not()):
        console.print(f"bandwidth is left out: {reason}")
        themes.remove("bandwidth")
    for name in themes:
        finding = THEMES[name](settings, lambda line: console.print(line, style="dim"))
        show(finding, settings)
        if settings.record:
            paths = write_record(finding, settings, ["ffdist", "bench", *args])
            console.print("record: " + ", ".join(map(str, paths)), soft_wrap=True)


def check(theme: Theme, settings: BenchSettings) -> None:
    """What would else be found wrong in every side's processes, or not at all. Raises ConfigError and DataError."""
    from ffdist.baselines.known import family
    from ffdist.bench.themes.throughput import SERIAL
    from ffdist.data import open_data

    if theme not in ("accuracy", "all") and (settings.lrs or settings.lengths):
        raise ConfigError("only accuracy tries recipes beforehand", where="--lrs" if settings.lrs else "--lengths",
                          expected="ffdist bench accuracy", got=f"ffdist bench {theme}",
                          remedy="one rate for both sides: --lr")  # fmt: skip
    for name in settings.against:
        if name != SERIAL:
            family(name)
    open_data(settings.data, settings.size)


def show(finding: Finding, settings: BenchSettings) -> None:
    """The result on the standard output."""
    if settings.json:
        print(json.dumps(finding.summary))
        return
    console = PlainConsole()
    for grid in finding.grids:
        console.print(grid.rich())
    for note in finding.notes:
        console.print(f"- {note}")
