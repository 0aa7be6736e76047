"""`ffdist bench`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, get_args

from ffdist.bench.settings import OURS_ALONE, BenchSettings, Theme
from ffdist.cli.help import Positional
from ffdist.cli.parsing import help_of, parsed, wants_help
from ffdist.errors import ConfigError, setting
from ffdist.known import Known, baseline_names
from ffdist.plain import PlainConsole
from ffdist.runtime.interrupts import handle_signals, unwind

if TYPE_CHECKING:
    from ffdist.bench.finding import Finding, Progress

THEMES: Known[Callable[[BenchSettings, Progress], Finding]] = Known(
    {name: f"ffdist.bench.themes.{name}:{name}" for name in get_args(Theme) if name != "all"}
)
MORE = f"""\
what to measure: {", ".join(get_args(Theme))}
baselines: {", ".join(baseline_names())}, ff
`ffdist settings NAME` says all about a setting."""


@dataclass(frozen=True)
class Bench:
    """Measure ffdist against backpropagation, side by side on this machine."""

    theme: Annotated[Theme, Positional]
    """What to measure."""
    settings: BenchSettings = field(default_factory=BenchSettings)
    """Both sides' settings."""


def main(args: Sequence[str]) -> None:
    if wants_help(args):
        print(help_of(Bench, "ffdist bench", made=Bench("all"), more=MORE, hidden=OURS_ALONE))
        sys.exit(0)
    bench = parsed(Bench, args, "ffdist bench", made=Bench("all"))
    settings = bench.settings
    check(bench.theme, settings)
    handle_signals(unwind)  # its processes end with it
    run(bench.theme, settings, args)


def run(theme: Theme, settings: BenchSettings, args: Sequence[str]) -> None:
    """Measure; show, and record."""
    from ffdist.bench.hosts import why_not  # behind the parsing: they import torch
    from ffdist.bench.record import write_record

    # read when the processes load their libraries, before any of our code can say it
    os.environ["OMP_NUM_THREADS"] = str(settings.train.compute.threads)
    console = PlainConsole(stderr=True)
    themes = list(THEMES) if theme == "all" else [theme]
    if theme == "all" and (reason := why_not()):
        console.print(f"bandwidth is left out: {reason}")
        themes.remove("bandwidth")
    for name in themes:
        finding = THEMES[name](settings, lambda line: console.print(line, style="dim"))
        show(finding, settings)
        if settings.compare.record:
            paths = write_record(finding, settings, ["ffdist", "bench", *args])
            console.print("record: " + ", ".join(map(str, paths)), soft_wrap=True)


def check(theme: Theme, settings: BenchSettings) -> None:
    """What would else be found wrong in every side's processes, or not at all. Raises ConfigError and DataError."""
    from ffdist.baselines.known import family
    from ffdist.bench.themes.throughput import SERIAL
    from ffdist.runtime.opened import open_told

    if theme not in ("accuracy", "all") and (settings.compare.lrs or settings.compare.lengths):
        raise ConfigError(
            "only accuracy tries recipes beforehand",
            where=setting("compare.lrs" if settings.compare.lrs else "compare.lengths"),
            expected="ffdist bench accuracy",
            got=f"ffdist bench {theme}",
            remedy=f"one rate for both sides: {setting('optim.lr')}",
        )
    for name in settings.compare.against:
        if name != SERIAL:
            family(name)
    open_told(settings.train.changed(image_size=settings.size).dataset)


def show(finding: Finding, settings: BenchSettings) -> None:
    """The result on the standard output."""
    if settings.compare.json:
        print(json.dumps(finding.summary))
        return
    console = PlainConsole()
    for grid in finding.grids:
        console.print(grid.rich())
    for note in finding.notes:
        console.print(f"- {note}")
