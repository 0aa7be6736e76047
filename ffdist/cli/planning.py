"""The work of `ffdist plan`, from its settings."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from ffdist.bench.harness.result import Plot
from ffdist.bench.plot import draw
from ffdist.cli.plan import PlanCommand, counts_of, lanes_of
from ffdist.cores import available_cores
from ffdist.errors import ConfigError, setting
from ffdist.plain import PlainConsole, table
from ffdist.plan import Plan
from ffdist.planner.cluster import Cluster
from ffdist.planner.forecast import Forecast, Request, ScalingPoint, parse_speeds, scaled
from ffdist.planner.profile import Profile
from ffdist.planner.search import in_mib
from ffdist.runtime.agree import check_job
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.planned import planned
from ffdist.runtime.planning import local_devices
from ffdist.runtime.run import check_named
from ffdist.runtime.start import make_job

SIMULATED = "simulated, by what was measured of each block"


def plan(command: PlanCommand) -> None:
    """Measure what has not been measured before, search, simulate, and tell."""
    settings = command.settings
    check_plot(command)
    check_named(settings)
    job = make_job(settings, open_dataset(settings.dataset))
    check_job(job)
    devices = command.devices if command.devices is not None else local_devices(settings) or available_cores()
    speeds = parse_speeds(command.speeds) if command.speeds is not None else ()
    request = Request(
        devices, command.link, command.memory_limit, speeds, lanes_of(command), command.plan, command.fresh
    )
    found = planned(job, request)
    profile, cluster = found.profile, found.cluster
    grown = scaled(profile, cluster, counts_of(command))
    plot = draw_scaled(profile, cluster, grown, command.plot) if grown and command.plot else None
    if command.json:
        fields = found.as_json() | ({"scaled": [scaling_json(each) for each in grown]} if grown else {})
        print(json.dumps(fields))
        return
    print_forecast(found, grown, plot)


def check_plot(command: PlanCommand) -> None:
    """Raises ConfigError, before anything is measured, where there will be no plot."""
    if counts_of(command) and command.plot and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "a simulation has a plot, and matplotlib is missing",
            where=setting("simulate"),
            remedy=f"pip install 'ffdist[bench]', or {setting('plot', 'none')}",
        )


def print_forecast(found: Forecast, grown: Sequence[ScalingPoint], plot: Path | None) -> None:
    console = PlainConsole()
    profile, cluster = found.profile, found.cluster
    lanes = "1 lane" if found.plan.lanes == 1 else f"{found.plan.lanes} lanes"
    own = "" if cluster.link.wired else " (this host's, measured)"
    console.print(
        f"{profile.network}, {profile.rule}: {profile.device}, threads a worker: {profile.threads}, "
        f"{profile.precision}, batches of {profile.batch} in {lanes}; devices: {cluster.devices}, "
        f"link {cluster.link}{own}",
        soft_wrap=True,
    )
    console.print(stage_table(found))
    console.print(speed_table(found))
    if grown:
        console.print(scaled_table(profile, grown))
    if plot:
        console.print(f"plot: {plot}", soft_wrap=True)
    for text in remarks(found):
        console.print(text, soft_wrap=True)
    console.print(f"the plan: {found.plan}", soft_wrap=True)


def remarks(found: Forecast) -> Iterator[str]:
    """Lines for `ffdist plan` on the plan's devices, where its workers have other numbers, on a given plan that is too
    large, on a search that left plans out, and on lanes that the plan's text does not say."""
    devices, cluster = found.best.devices, found.cluster
    if list(devices) != list(range(len(devices))):
        placed = ", ".join(f"{worker} on {device}" for worker, device in enumerate(devices))
        idle = [str(device) for device in range(cluster.devices) if device not in devices]
        yield f"workers on devices, numbered as --speeds has them: {placed}; left idle: {', '.join(idle)}"
    limit = cluster.memory_limit
    if limit is not None and found.best.memory > limit:  # of a given plan: of others none is looked at
        yield f"the plan does not keep to the memory limit: a worker holds {in_mib(found.best.memory)}"
    if found.best.bounded:
        yield "the search left out some plans, as there are too many: a faster one may exist (PLANNING.md says which)"
    if Plan.parse(str(found.plan), found.plan.blocks).lanes != found.plan.lanes:
        yield f"the plan's text does not say its lanes: --lanes {found.plan.lanes} goes with it"


def stage_table(found: Forecast) -> Table:
    rows = table("stage", "blocks", "workers", "ms a batch", "idle", "MiB", "KiB sent", "KiB exchanged", title="Stages")
    for index, each in enumerate(found.best.stages):
        rows.add_row(
            str(index),
            " ".join(each.stage.blocks),
            each.stage.shared_out,
            f"{each.busy * 1e3:.2f}",
            f"{max(0.0, each.idle):.0%}",
            f"{each.memory / 2**20:,.1f}",
            f"{each.sent / 1024:,.0f}",
            f"{each.exchanged / 1024:,.0f}",
        )
    rows.caption = "a batch, by the worker with the most; sent by all workers to the next stage, exchanged by each"
    return rows


def speed_table(found: Forecast) -> Table:
    best = next(iter(found.speeds.values())).rate
    rows = table("", "samples/s", "least", "most", "of the plan's", title="Speed, simulated")
    for name, each in found.speeds.items():
        rows.add_row(name, *map(rate_text, each), f"{each.rate / best:.2f}")
    for name, each in (("pipeline", found.pipeline), ("data parallel", found.parallel)):
        if each is None:
            limit = found.cluster.memory_limit is not None
            rows.add_row(name, "-", "-", "-", "too large" if limit else "too few lanes")
    rows.caption = SIMULATED
    return rows


def scaled_table(profile: Profile, grown: Sequence[ScalingPoint]) -> Table:
    rows = table(
        "devices",
        "batch",
        "FF, best plan",
        "DDP, ring",
        "1F1B",
        "at work",
        "lanes",
        "stages",
        title="Samples/s, simulated",
    )
    for each in grown:
        rates = (each.best, each.ddp, each.pipelined)
        row = (each.devices, each.batch, *(e.rate for e in rates), each.plan.workers, each.plan.lanes)
        rows.add_row(*map(rate_text, row), shape(each.plan))
    rows.caption = (
        f"simulated; a batch has {profile.batch} samples for each device on all sides, each at the best of its shapes, "
        "which may leave devices idle; at work, lanes, stages: of FF, blocks x workers a stage"
    )
    return rows


def draw_scaled(profile: Profile, cluster: Cluster, grown: Sequence[ScalingPoint], path: Path) -> Path:
    """All three beside one another, each figure labelled. Gives the path that was free."""

    def points(name: str) -> list[tuple[Any, float, float, float]]:
        return [(each.devices, *getattr(each, name)) for each in grown]

    series = {
        "FF, best plan (simulated)": points("best"),
        "DDP, ring (simulated)": points("ddp"),
        "1F1B (simulated)": points("pipelined"),
    }
    title = f"{profile.network}, {profile.rule}: {profile.batch} samples a device, link {cluster.link} (simulated)"
    made = Plot("lines", title, "devices", "samples/s (simulated)", series, log_x=True, log_y=True)
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    draw(made, free)
    return free


def scaling_json(each: ScalingPoint) -> dict[str, Any]:
    """`simulated` says it once more."""
    rates = {"best plan": each.best, "backprop, DDP": each.ddp, "backprop, 1F1B": each.pipelined}
    return {
        "devices": each.devices,
        "batch": each.batch,
        "plan": each.plan.as_json(),
        "simulated": {name: rate._asdict() for name, rate in rates.items()},
    }


def rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def shape(plan: Plan) -> str:
    """The stages of a plan, blocks x workers; like ones in a row once, with their number."""
    shapes = (f"{len(stage.blocks)}x{len(stage.shares)}{' by batch' * stage.by_batch}" for stage in plan.stages)
    counted = ((text, len(list(group))) for text, group in groupby(shapes))
    return ", ".join(f"{number} of {text}" if number > 1 else text for text, number in counted)
