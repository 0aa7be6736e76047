"""`ffdist bench`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from ffdist.baselines.known import BASELINES, FAMILIES, family
from ffdist.bench.finding import Finding, Progress
from ffdist.bench.hosts import why_not
from ffdist.bench.record import write_record
from ffdist.bench.settings import BenchSettings, Theme
from ffdist.bench.themes.accuracy import accuracy
from ffdist.bench.themes.bandwidth import bandwidth
from ffdist.bench.themes.depth import depth
from ffdist.bench.themes.loader import loader
from ffdist.bench.themes.memory import memory
from ffdist.bench.themes.scaling import scaling
from ffdist.bench.themes.throughput import SERIAL, throughput
from ffdist.bench.themes.transport import transport
from ffdist.data import open_data
from ffdist.errors import ConfigError
from ffdist.models import MODELS

THEMES: dict[str, Callable[[BenchSettings, Progress], Finding]] = {
    "throughput": throughput,
    "memory": memory,
    "depth": depth,
    "scaling": scaling,
    "bandwidth": bandwidth,
    "transport": transport,
    "loader": loader,
    "accuracy": accuracy,
}
NAMES = f"""Models: {", ".join(MODELS)}.
Baselines: {", ".join(FAMILIES)}, {", ".join(BASELINES)}, ff.
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
    # read when the processes load their libraries, before any of our code can say it
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    console = Console(stderr=True)
    themes = list(THEMES) if bench.theme == "all" else [bench.theme]
    if bench.theme == "all" and (reason := why_not()):
        console.print(f"bandwidth is left out: {reason}")
        themes.remove("bandwidth")
    for theme in themes:
        finding = THEMES[theme](settings, lambda line: console.print(line, style="dim", highlight=False))
        show(finding, settings)
        if settings.record:
            paths = write_record(finding, settings, ["ffdist", "bench", *args])
            console.print("record: " + ", ".join(map(str, paths)), highlight=False, soft_wrap=True)


def check(theme: Theme, settings: BenchSettings) -> None:
    """What would else be found wrong in every side's processes, or not at all. Raises ConfigError and DataError."""
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
    console = Console()
    if not console.is_terminal:
        console.width = 200
    for grid in finding.grids:
        console.print(grid.rich())
    for note in finding.notes:
        console.print(f"- {note}", highlight=False)
