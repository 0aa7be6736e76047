"""What `ffdist train` does with its settings."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from ffdist.cli.on_ray import launch_on_ray
from ffdist.config import TrainSettings, write_toml
from ffdist.cores import available_cores
from ffdist.data import Images, open_data
from ffdist.errors import FfdistError, StageError, TransportError, exit_status
from ffdist.folders import command, ends_with_container, loss
from ffdist.pipeline.plan import BlockCost, dealt
from ffdist.plain import PlainConsole, table
from ffdist.report.console import ConsoleReport, result_tables
from ffdist.runtime.agree import agree, check_job, costs_of, cut_by, validation_note
from ffdist.runtime.child import end_with_parent
from ffdist.runtime.folder import beginning, going_on, held, nothing_left
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.runtime.outcome import Result, with_remedy
from ffdist.runtime.own_code import GIVEN, check_code, settled
from ffdist.runtime.processes import run_processes
from ffdist.runtime.rank import idle_gpus, set_threads, stage_device
from ffdist.runtime.run import SETTINGS, check_named, no_data_to_learn
from ffdist.runtime.start import SettingsJob, count_stages, make_job
from ffdist.runtime.threads import run_threads
from ffdist.runtime.torchrun import Meeting, Signals, meet, run_rank
from ffdist.runtime.world import World
from ffdist.snapshot import committed


def train(settings: TrainSettings) -> None:
    """Check everything, run the stages, print what came of them; exits with 129, 130 or 143 where told to stop."""
    world = World.from_env()
    if settings.resume and not settings.dry_run and (end := nothing_left(settings)):
        warn(f"{end} ({settings.out})" if world is None or world.first else None)
        return
    if settings.resume and settings.out:
        check_code(settings.out, settled(settings), strict=True)
    check_named(settings, settings.out)
    if settings.data == GIVEN:
        raise no_data_to_learn(settings.out)
    images = open_data(settings.data, settings.image_size)
    job = make_job(replace(settings, resume=has_begun(settings)), images, None, 1)
    stages = count_stages(settings, len(job.names), world.size if world else None)
    check_job(job, stages)
    if world is None or world.first:
        warn(validation_note(job))
    if world is None or world.first:
        warn(job.chain.joined)
    if job.chain.origin and (world is None or world.first):
        print(f"weights to start from: {job.chain.origin}", file=sys.stderr)
    if settings.dry_run:
        if world is None or world.first:
            dry_run(settings, images, stages)
    elif world:
        train_here(settings, images, world)
    else:
        if settings.launcher != "ray":
            stage_device(settings.device, World())
            warn(idle_gpus(settings.device, World(size=stages)))
        handle_signals(unwind)
        with ExitStack() as start:
            out = start_folder(settings, images, start)
            made = job_of(settings, out, stages, resume=has_begun(settings))
            result = launch(replace(made, outputs=job.chain.outputs()), out)
        conclude(result, out)
        if result.reason == "interrupted":
            sys.exit(exit_status(result.signal))


def start_folder(settings: TrainSettings, images: Images, start: ExitStack) -> Path:
    """The run's directory, held until `start` is left; a new one goes again where that is by an error before the stages
    are ready."""
    out = start.enter_context(going_on(settings, images) if settings.resume else beginning(settings, images))
    warn(loss(out))
    return out


def has_begun(settings: TrainSettings) -> bool:
    """Whether a run that is to go on has a snapshot to go on from; without one it starts from its beginning."""
    return settings.resume and settings.out is not None and bool(committed(settings.out))


def job_of(settings: TrainSettings, out: Path, stages: int, *, resume: bool) -> SettingsJob:
    """resume: whether there is a snapshot to go on from."""
    recorded = settled(settings) if settings.resume else None
    return SettingsJob(replace(settings, out=out, resume=resume), out, stages, recorded)


def launch(make: SettingsJob, out: Path) -> Result:
    settings, report = make.settings, ConsoleReport(PlainConsole(stderr=True))
    warn(f"starting {make.stages} stage{'s' * (make.stages > 1)} by {settings.launcher} ...")
    try:
        if settings.launcher == "threads":
            return run_threads(make(), report)
        if settings.launcher == "ray":
            return launch_on_ray(make, out, report)
        return run_processes(make, make.stages, report)
    except (StageError, TransportError) as error:
        raise going_on_told(error, out) from error
    finally:
        report.close()


def going_on_told(error: FfdistError, out: Path) -> FfdistError:
    """The error, with how the run goes on from its last snapshot, where it has one."""
    if not any(out.glob("snapshots/*/manifest.json")):
        return error
    hint = f"the run goes on from its last snapshot by: {command('train', '--resume', '--out', out)}"
    return with_remedy(error, f"{error.remedy}; {hint}" if error.remedy else hint)


def train_here(settings: TrainSettings, images: Images, world: World) -> None:
    """As one rank of torchrun's: the last one reports. It ends with torchrun's agent, which nobody could restart."""
    signals = Signals(world.first)
    signals.handle()
    end_with_parent(os.getppid())
    if world.local_rank == 0:
        warn(idle_gpus(settings.device, world))
    timeout = timedelta(seconds=settings.timeout)
    meeting = meet(world, timeout)
    with ExitStack() as start:
        decide = lambda: begin_or_go_on(settings, images, meeting, start)  # noqa: E731 - on rank 0 alone
        folder, resume = agree(meeting.store, world, "run", decide, timeout)
        out = Path(folder)
        job = job_of(settings, out, world.size, resume=resume)
        report = ConsoleReport(PlainConsole(stderr=True))
        start.callback(report.close)
        result = run_rank(job, meeting.world, meeting.store, report, signals)
    if world.last:
        conclude(result, out)
    if result.signal:
        sys.exit(exit_status(result.signal))


def warn(note: str | None) -> None:
    if note:
        print(f"ffdist: {note}", file=sys.stderr, flush=True)


def begin_or_go_on(settings: TrainSettings, images: Images, meeting: Meeting, start: ExitStack) -> tuple[str, bool]:
    """The run's directory, and whether to go on from a snapshot there, as a restarted attempt does where one exists."""
    if meeting.lasting.check(["run"]):
        out = meeting.lasting.get("run").decode()
        if (Path(out) / SETTINGS).exists():  # else the former attempt was refused, and left nothing
            start.enter_context(held(Path(out)))
            return out, bool(committed(Path(out)))
    out = start_folder(settings, images, start)
    meeting.lasting.set("run", str(out))
    return str(out), settings.resume and bool(committed(out))


def conclude(result: Result, out: Path) -> None:
    """The tables, where the run is, what to try next."""
    console = PlainConsole()
    for each in result_tables(result.records, result.test):
        console.print(each)
    console.print(f"run directory: {out}", soft_wrap=True)
    if ends_with_container() and (told := loss(out)):
        console.print(told, soft_wrap=True)
        return
    if result.reason == "interrupted":
        hints = [command("train", "--resume", "--out", out)]
    else:
        hints = [
            *([command("eval", out)] if result.test else []),
            command("report", out),
            command("export", out, "--to", "model.pt2"),
        ]
    console.print("try next: " + "\n          ".join(hints), soft_wrap=True)


def dry_run(settings: TrainSettings, images: Images, stages: int) -> None:
    """Print the resolved settings, and the stages with what each would hold and cost; start nothing."""
    job = make_job(settings, images, None, stages)
    place = World(size=stages)
    set_threads(settings.threads, place)
    device = stage_device(settings.device, place)
    train = job.loaders().train
    costs = costs_of(job, device, train)
    cut = list(settings.cut) or cut_by(costs, stages)
    console = PlainConsole()
    console.print(write_toml(replace(settings, stages=stages)), soft_wrap=True, end="")
    console.print(stage_table(costs, cut, train.largest_batch))


def stage_table(costs: list[BlockCost], cut: list[int], batch_size: int) -> Table:
    rows = table("stage", "blocks", "parameters", "ms a batch", "KiB sent a batch", title="Stages, measured here")
    slowest = 0.0
    for stage, mine in enumerate(dealt(costs, cut)):
        seconds = sum(cost.seconds for cost in mine)
        slowest = max(slowest, seconds)
        sent = mine[-1].activation_bytes if stage < len(cut) - 1 else 0
        rows.add_row(str(stage), " ".join(cost.name for cost in mine), f"{sum(c.parameters for c in mine):,}",
                      f"{seconds * 1e3:.2f}", f"{sent / 1024:,.0f}")  # fmt: skip
    rows.caption = (
        f"by the slowest stage {batch_size / slowest:,.0f} samples/s, if each of {len(cut)} stages had a core or GPU "
        f"of its own (cores here: {available_cores()}); reading the data, sending and validation are not in it"
    )
    return rows
