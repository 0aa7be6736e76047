"""`ffdist plan`: the fastest plan of a network, and what to expect of it. The planning is in `ffdist.cli.planning`,
which imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import help_of, parsed_values, wants_help
from ffdist.cli.train import DEFAULT_PRESET
from ffdist.errors import ConfigError, setting
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.options import convert
from ffdist.plan.text import MAX_NUMBER
from ffdist.presets import with_preset
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.settings import GROUP_OF, Settings, apply, flat, without_strange_options
from ffdist.settings.toml import read_toml
from ffdist.settings.unused import OF_RUNS, check_of_plans

PROG = "ffdist plan"
MORE = """\
`ffdist settings NAME` says all about a setting. A bare `ffdist plan` is `ffdist plan digits`.
What was measured is kept in the cache: $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache."""
HIDDEN = OF_RUNS | {"epochs", "early_stop"} | {n for n, group in GROUP_OF.items() if group in ("scheduler", "watch")}
"""Settings that the help of `ffdist plan` leaves out: those of runs, and others that change no block's time."""


@dataclass(frozen=True)
class PlanCommand:
    """Find which worker should compute which block, for which lanes of a batch: blocks and links are measured, plans
    searched and simulated."""

    preset: Annotated[str | None, Positional] = None
    """Named settings to start from (see `ffdist presets`)."""
    config: Path | None = None
    """TOML file of settings, which override the preset's."""
    devices: int | None = None
    """Number of devices, each with a worker. Default: this host's GPUs, else cores."""
    link: str | None = None
    """Link between the devices, e.g. 1gbit or 25gbit,50us. A rate, and a latency where it is known. Default: this
    host's own, measured."""
    memory_limit: str | None = None
    """Memory that a worker may hold, e.g. 8GiB. Weights, gradients, moments, one block's graph, and queues."""
    speeds: str | None = None
    """Speed of each device, as a share of the one here, e.g. 1,1,0.5. In any order: worker i is on the i-th, unless
    some are left idle."""
    lanes: str = "auto"
    """Lanes of a batch, or auto. They are a part of what is learned: a stage has a worker a lane at most. auto: those
    of --config, else as many as are fastest."""
    plan: str | None = None
    """A plan to price, as text or file, e.g. 'conv1 @ 0 | conv2 @ 0:0,1:1-3 | conv3 @ 1'."""
    simulate: str | None = None
    """Numbers of devices to simulate, e.g. 8,32,128,512. Each device has as many samples as a batch here; beside DDP by
    a ring and 1F1B, with a plot."""
    plot: Path | None = Path("simulated.svg")
    """File of the plot of --simulate; none: no plot. A number is added to a name that is taken."""
    fresh: Flag = False
    """Measure blocks and links again, though they were measured before."""
    json: Flag = False
    """Print one JSON object. `ffdist train --plan FILE` takes it as its plan."""
    settings: Settings = field(default_factory=Settings)


def parse(args: Sequence[str]) -> PlanCommand:
    """The command with its resolved settings. Raises ConfigError and UsageError."""
    values = parsed_values(PlanCommand, args, PROG, made=PlanCommand())
    own = {name: values.pop(name) for name in list(values) if name in PlanCommand.__dataclass_fields__}
    check_of_plans(values, PROG)
    file, preset = own.get("config"), own.get("preset")
    from_file = flat(read_toml(file), str(file)) if file else {}
    is_default = values.get("data", DEFAULT_PRESET) == DEFAULT_PRESET and {"model", "objective"}.isdisjoint(values)
    name = preset or (DEFAULT_PRESET if is_default and not file else None)
    base = with_preset(Settings(), name) if name else Settings()
    base = apply(base, from_file, str(file)) if from_file else base
    command = PlanCommand(**own, settings=without_strange_options(base.changed(**values), base, values))
    counts_of(command)
    lanes_of(command)
    return command


def lanes_of(command: PlanCommand) -> int | None:
    """The number of lanes; None for as many as are best. Raises ConfigError for anything else."""
    if command.lanes == "auto":
        return None
    (count,) = whole_numbers(command.lanes, "lanes", "a number, or auto", limit=1)
    return count


def counts_of(command: PlanCommand) -> list[int]:
    """Numbers of devices to simulate. Raises ConfigError for what are none."""
    return whole_numbers(command.simulate, "simulate", "8,32,128,512") if command.simulate is not None else []


def whole_numbers(text: str, name: str, expected: str, limit: int = 32) -> list[int]:
    """Whole numbers from 1 to MAX_NUMBER, separated by commas or blanks, at most `limit`. Raises ConfigError for other
    texts."""
    try:
        numbers = [convert(word, int) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > limit or not 1 <= min(numbers) <= max(numbers) <= MAX_NUMBER:
        raise ConfigError(
            f"{setting(name)} has a wrong value",
            where=PROG,
            expected=f"{expected}; 1 to {MAX_NUMBER}",
            got=text or "nothing",
        )
    return numbers


def main(args: Sequence[str]) -> None:
    if wants_help(args):
        print(help_of(PlanCommand, PROG, made=PlanCommand(), more=MORE, hidden=HIDDEN))
        sys.exit(0)
    command = parse(args)
    note("loading torch, then checking data, network and rule ...")
    with loading():
        from ffdist.cli.planning import plan

    handle_signals(unwind)  # the process that measures a link ends with it
    plan(command)
