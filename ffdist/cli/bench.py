"""`ffdist bench`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from ffdist.bench.settings import BASE, OURS_ALONE, BenchSettings, CompareSettings, SuiteName
from ffdist.cli.help import Positional
from ffdist.cli.parsing import UsageError, help_of, parsed_values, usage, wants_help
from ffdist.errors import ConfigError, setting
from ffdist.known import LazyNames, baseline_names
from ffdist.notes import note
from ffdist.options import nearest
from ffdist.plain import PlainConsole
from ffdist.presets import PRESETS, with_preset
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.settings import GROUP_OF

if TYPE_CHECKING:
    from ffdist.bench.harness.result import BenchResult, Progress

SUITES: LazyNames[Callable[[BenchSettings, Progress], BenchResult]] = LazyNames(
    {name: f"ffdist.bench.suites.{name}:{name}" for name in get_args(SuiteName) if name != "all"}
)
PROG = "ffdist bench"
FAULT_SUITES = ("faults", "soak")
"""Suites that try how well a run holds out, each with options of its own."""
MORE = f"""\
what to measure: {", ".join(get_args(SuiteName))}
whether a run holds out, with options of their own: {", ".join(f"ffdist bench {name} --help" for name in FAULT_SUITES)}
baselines: {", ".join(baseline_names())}, ff
`ffdist settings NAME` says all about a setting."""


@dataclass(frozen=True)
class Bench:
    """Measure ffdist against backpropagation, side by side on this machine."""

    suite: Annotated[SuiteName, Positional]
    """What to measure."""
    preset: Annotated[str | None, Positional] = None
    """Named settings of both sides to start from (see `ffdist presets`), as far as both have them."""
    settings: BenchSettings = field(default_factory=BenchSettings)
    """Both sides' settings."""


def main(args: Sequence[str]) -> None:
    if args and args[0] in FAULT_SUITES:
        from ffdist.cli.faults import main as try_run

        try_run(args[0], args[1:])
        return
    if wants_help(args):
        named = next((arg for arg in args if arg in PRESETS), None)
        train = with_preset(BASE, named) if named else BASE
        both = train.changed(**{name: BASE.value(name) for name in OURS_ALONE})
        print(help_of(Bench, PROG, made=Bench("all", named, BenchSettings(both)), more=MORE, hidden=OURS_ALONE))
        sys.exit(0)
    bench = parse(args)
    settings = bench.settings
    check(bench.suite, settings)
    handle_signals(unwind)  # its processes end with it
    run(bench.suite, settings, args)


def parse(args: Sequence[str]) -> Bench:
    """Raises ConfigError for what cannot be compared, UsageError for a command line that cannot be read."""
    values = parsed_values(Bench, args, PROG, made=Bench("all"))
    if "suite" not in values:
        raise UsageError("SUITE is missing", where=PROG, expected=usage(Bench, PROG), remedy=f"{PROG} --help")
    preset = values.get("preset")
    if preset is not None and preset not in PRESETS:
        near = nearest(preset, PRESETS)
        remedy = near if "did you mean" in near else "ffdist presets lists them"
        raise ConfigError(f"there is no preset '{preset}'", where=PROG, remedy=remedy)
    train = with_preset(BASE, preset) if preset else BASE
    own = {f.name for f in fields(CompareSettings)}
    return Bench(
        values["suite"],
        preset,
        BenchSettings(
            train.changed(**{name: value for name, value in values.items() if name in GROUP_OF and name not in own}),
            CompareSettings(**{name: value for name, value in values.items() if name in own}),
        ),
    )


def run(suite: SuiteName, settings: BenchSettings, args: Sequence[str]) -> None:
    """Run one suite, or all; print each result, and write its record where one is asked for."""
    from ffdist.bench.hosts import why_not  # after the parsing: these import torch
    from ffdist.pipeline.precision import slow_precision_note
    from ffdist.runtime.worker import stage_device
    from ffdist.runtime.world import World

    # read when the processes load their libraries, before any of our code can say it
    os.environ["OMP_NUM_THREADS"] = str(settings.train.compute.threads)
    console = PlainConsole(stderr=True)
    compute = settings.train.compute
    if text := slow_precision_note(stage_device(compute.device, World()), compute.precision):
        note(text)
    suites = list(SUITES) if suite == "all" else [suite]
    if suite == "all" and (reason := why_not()):
        console.print(f"bandwidth is left out: {reason}")
        suites.remove("bandwidth")
    for name in suites:
        result = SUITES[name](settings, lambda line: console.print(line, style="dim"))
        show(result, as_json=settings.compare.json)
        if folder := settings.compare.record:
            argv, rule = ["ffdist", "bench", *args], settings.train.rule.objective
            record(result, folder, argv, asdict(settings), network=settings.network, rule=rule)


def check(suite: SuiteName, settings: BenchSettings) -> None:
    """Check baselines and data before processes start. Raises ConfigError and DataError."""
    from ffdist.baselines.known import family
    from ffdist.bench.suites.throughput import SERIAL
    from ffdist.runtime.opened import open_dataset

    if suite not in ("accuracy", "all"):
        check_no_accuracy(suite, settings)
    for name in settings.compare.against:
        if name != SERIAL:
            family(name)
    open_dataset(settings.train.changed(image_size=settings.size).dataset)


def check_no_accuracy(suite: SuiteName, settings: BenchSettings) -> None:
    """Raises ConfigError for what time to accuracy alone has."""
    trial = ("only accuracy tries recipes beforehand", f"one rate for both sides: {setting('optim.lr')}")
    link = f"ffdist bench bandwidth {setting('compare.rates', settings.compare.link)}"
    accuracy_only = {
        "lrs": trial,
        "lengths": trial,
        "recipes": trial,
        "finished": ("only accuracy has trainings to keep", f"leave {setting('compare.finished')} out"),
        "link": ("only accuracy has hosts of one rate", link),
    }
    for name, (what, remedy) in accuracy_only.items():
        if getattr(settings.compare, name):
            where, got = setting(f"compare.{name}"), f"ffdist bench {suite}"
            raise ConfigError(what, where=where, expected="ffdist bench accuracy", got=got, remedy=remedy)


def show(result: BenchResult, *, as_json: bool) -> None:
    """Print a result on the standard output: its tables and notes, or JSON."""
    if as_json:
        print(json.dumps(result.summary))
        return
    console = PlainConsole()
    for table in result.tables:
        if table.title:
            console.print(table.rich())
    for line in result.notes:
        console.print(f"- {line}")


def record(
    result: BenchResult, folder: Path, argv: Sequence[str], settings: Mapping[str, Any], **row_keys: str
) -> None:
    """Write a record into the folder, and say where. argv: the command. row_keys: network and rule of all rows."""
    from ffdist.bench.harness.record import write_record

    paths = write_record(result, folder, argv, settings, **row_keys)
    PlainConsole(stderr=True).print("record: " + ", ".join(map(str, paths)), soft_wrap=True)
