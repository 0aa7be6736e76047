"""The work of `ffdist train`, from its settings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ffdist.cores import available_cores
from ffdist.data import Images
from ffdist.errors import FfdistError, StageError, TransportError, exit_status
from ffdist.events import Observers
from ffdist.folders import command as shell_command
from ffdist.folders import container_note, ends_with_container
from ffdist.notes import QUIET, note, silenced
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.plan import BlockCost, split_by_stage
from ffdist.plain import PlainConsole, table
from ffdist.plan import Plan
from ffdist.report.console import ConsoleReport, result_tables
from ffdist.report.log import read_run_log
from ffdist.runtime.agent import end_with_agent, notify_agent, stop_agent
from ffdist.runtime.agree import agree, check_job, validation_note
from ffdist.runtime.data_facts import check_same_data, read_facts
from ffdist.runtime.folder import locked, new_run, nothing_left_note, resumed_run
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import find_key, set_key
from ffdist.runtime.observing import observers
from ffdist.runtime.on_ray import settings_on_ray
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.outcome import Result, with_remedy
from ffdist.runtime.own_code import GIVEN, check_code, with_absolute_paths
from ffdist.runtime.peer_monitor import watching_each_other
from ffdist.runtime.planning import costs_of, count_workers, new_plan, settled_plan
from ffdist.runtime.processes import run_processes
from ffdist.runtime.record import facts
from ffdist.runtime.run import SETTINGS, check_named, no_data_to_learn_error, read_settings
from ffdist.runtime.start import SettingsJob, make_job
from ffdist.runtime.threads import run_threads
from ffdist.runtime.torchrun import RankSignals, Rendezvous, meet, run_rank
from ffdist.runtime.worker import idle_gpus_note, set_threads, stage_device
from ffdist.runtime.worker_main import TrainingMain
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.settings.toml import write_toml
from ffdist.settings.unused import unused_settings
from ffdist.snapshot import committed
from ffdist.snapshot.mirror import as_user_named

if TYPE_CHECKING:
    from ffdist.cli.train import Train


def train(command: Train, argv: Sequence[str]) -> None:
    """Check everything, run the stages, and print the results.

    Exits with 129, 130 or 143 where a signal has stopped the run, and with 0 where a callback has ended it.
    argv: the command as it was typed.
    """
    command = replace(command, settings=settled_plan(command.settings))
    world, settings = World.from_env(), command.settings
    prints = world is None or world.first
    if command.resume and not command.dry_run and (end := nothing_left_note(settings)):
        check_named_data(settings, command.resume)
        if prints:
            warn(f"{end} ({settings.run.out})")
            print_end(command.resume, as_json=command.json)
        return
    if command.resume:
        check_code(command.resume, with_absolute_paths(settings), strict=True)
    check_named(settings, command.resume)
    if settings.dataset.data == GIVEN:
        raise no_data_to_learn_error(command.resume)
    with nullcontext() if prints else silenced():
        images = open_dataset(settings.dataset)
    job = make_job(settings, images, resume=has_begun(command))
    settings = job.settings
    command = replace(command, settings=settings)
    workers = count_workers(settings, job.names, world.size if world else None)
    job = replace(job, workers=workers)
    if world is None or world.attempt == 0:  # a later attempt is one of what was checked
        check_job(job)
    if prints:
        warn(validation_note(job))
        warn(job.chain.joined)
        warn(f"weights to start from: {job.chain.origin}" if job.chain.origin else None)
        for text in unused_settings(settings):
            warn(text)
    if command.dry_run:
        if prints:
            dry_run(job, as_json=command.json)
    elif world:
        train_as_rank(command, images, world, argv)
    else:
        train_local(command, job, argv)


def check_named_data(settings: Settings, run: Path) -> None:
    """Check the data named for a finished run, which needs none any more. Raises DataError where others than its own
    are named."""
    if settings.dataset.data != read_settings(run).dataset.data:
        images = open_dataset(settings.dataset)
        check_same_data(read_facts(run), images, settings.dataset.data)


def train_local(command: Train, job: Job, argv: Sequence[str]) -> None:
    """Train by processes, threads or Ray actors that this process starts."""
    settings, stages = command.settings, job.workers
    if settings.plan.launcher != "ray":
        stage_device(settings.compute.device, World())
        warn(idle_gpus_note(settings.compute.device, World(size=stages)))
    handle_signals(unwind)
    with ExitStack() as start:
        out = start_folder(command, job.images, start)
        started = facts(settings.plan.launcher, stages, argv)
        made = job_of(command, job.images, out, started, resume=has_begun(command))
        result = launch(replace(made, outputs=job.chain.outputs()), out)
    conclude(result, out, as_json=command.json)
    if result.signal:  # an observer's wish to end is no failure
        sys.exit(exit_status(result.signal))


def start_folder(command: Train, images: Images, start: ExitStack) -> Path:
    """The run's folder, held until `start` is left; a new one goes again where that is by an error before the stages
    are ready."""
    settings = command.settings
    out = start.enter_context(resumed_run(settings, images) if command.resume else new_run(settings, images))
    warn(container_note(out))
    return out


def has_begun(command: Train) -> bool:
    """True if a run that is to go on has a snapshot to go on from; without one it starts from its beginning."""
    return command.resume is not None and bool(committed(command.resume))


def job_of(command: Train, images: Images, out: Path, options: dict[str, Any], *, resume: bool) -> SettingsJob:
    """options: `facts` of this start. resume: whether there is a snapshot to go on from."""
    recorded = with_absolute_paths(command.settings) if command.resume else None
    folder = images.prepared and images.prepared.folder
    settings = command.settings.changed(out=out)
    return SettingsJob(settings, out, options["stages"], resume, recorded, options, folder=folder)


def launch(make: SettingsJob, out: Path) -> Result:
    """Start the workers by the settings' launcher, and wait for the result; its observers are closed in any case."""
    settings = make.settings
    observer = observers(settings, out, [ConsoleReport(PlainConsole(stderr=True))])
    what = "worker" if settings.plan.is_shared else "stage"
    warn(f"starting {make.workers} {what}{'s' * (make.workers > 1)} by {settings.plan.launcher} ...")
    try:
        if settings.plan.launcher == "threads":
            return run_threads(make(), observer)
        if settings.plan.launcher == "ray":
            return settings_on_ray(make, out, observer)
        run, main = settings.run, TrainingMain(make)
        return run_processes(main, make.workers, observer, run=out, max_restarts=run.max_restarts, timeout=run.timeout)
    except (StageError, TransportError) as error:
        raise with_resume_remedy(error, out) from error
    finally:
        observer.close()


def with_resume_remedy(error: FfdistError, out: Path) -> FfdistError:
    """The error, with how the run goes on from its last snapshot, where it has one."""
    if not (out / SETTINGS).is_file() or not any(out.glob("snapshots/*/manifest.json")):
        return error
    hint = f"the run goes on from its last snapshot by: {shell_command('train', '--resume', as_user_named(out))}"
    remedy = error.details["remedy"]
    return with_remedy(error, f"{remedy}; {hint}" if remedy else hint)


def train_as_rank(command: Train, images: Images, world: World, argv: Sequence[str]) -> None:
    """Train as one rank of torchrun; the last rank reports. It ends with torchrun's agent, without which no rank could
    be restarted."""
    settings, signals = command.settings, RankSignals(world.first)
    signals.handle()
    end_with_agent()
    if world.local_rank == 0:
        warn(idle_gpus_note(settings.compute.device, world))
    timeout, activity = timedelta(seconds=settings.run.timeout), Activity()
    meeting = meet(world, timeout)
    with watching_each_other(meeting.world, timeout.total_seconds(), activity), ExitStack() as start:
        decide = lambda: begin_or_resume(command, images, meeting, start)  # noqa: E731 - on rank 0 alone
        folder, resume = agree(meeting.store, world, "run", decide, timeout)
        out = Path(folder)
        newest = next((kept.name for kept in reversed(committed(out))), None)
        job = job_of(command, images, out, facts("torchrun", world.size, argv), resume=resume)
        observer = observers(settings, out, [ConsoleReport(PlainConsole(stderr=True))]) if world.last else Observers([])
        start.callback(observer.close)
        if world.local_rank == 0:
            notify_agent(run=str(out.absolute()), newest=newest)
        result = run_rank(job, meeting.world, meeting.store, observer, signals, activity, timeout=timeout)
    if world.last:
        conclude(result, out, as_json=command.json)
    if result.signal:
        notify_agent(final=True)
        stop_agent(result.signal)
        sys.exit(exit_status(result.signal))


def warn(text: str | None) -> None:
    """A note, where there is something to say."""
    if text:
        note(text)


def begin_or_resume(command: Train, images: Images, meeting: Rendezvous, start: ExitStack) -> tuple[str, bool]:
    """The run's folder, and whether to go on from a snapshot there, as a restarted attempt does where one exists."""
    lasting, where = meeting.lasting, str(meeting.world)
    if found := find_key(lasting, "run", where=where):
        out = found.decode()
        if (Path(out) / SETTINGS).exists():  # else the former attempt was refused, and left nothing
            start.enter_context(locked(Path(out)))
            return out, bool(committed(Path(out)))
    out = start_folder(command, images, start)
    set_key(lasting, "run", str(out), where=where)
    return str(out), command.resume is not None and bool(committed(out))


def conclude(result: Result, out: Path, *, as_json: bool = False) -> None:
    """The tables, where the run is, what to try next; or all of it as one JSON object."""
    place = as_user_named(out)
    if as_json:
        fields = {"run": str(place), "reason": result.reason, "epochs": result.records, "test": result.test}
        print(json.dumps(fields))
        return
    console = PlainConsole()
    for each in result_tables(result.records, result.test):
        console.print(each)
    console.print(f"run folder: {place}", soft_wrap=True)
    if ends_with_container() and (fields := container_note(out)):
        console.print(fields, soft_wrap=True)
        return
    if QUIET in os.environ:
        return
    if result.reason == "interrupted":
        hints = [shell_command("train", "--resume", place)]
    else:
        hints = [
            *([shell_command("eval", place)] if result.test else []),
            shell_command("report", place),
            shell_command("export", place, "--to", "model.pt2"),
        ]
    console.print("try next: " + "\n          ".join(hints), soft_wrap=True)


def print_end(run: Path, *, as_json: bool) -> None:
    """Print as JSON what `conclude` printed of a run that has ended before."""
    if as_json:
        records, end = read_run_log(run)
        fields = {"run": str(run), "reason": "finished", "epochs": records, "test": end and end["test"]}
        print(json.dumps(fields))


def dry_run(job: Job, *, as_json: bool = False) -> None:
    """Print the resolved settings, and the stages with what each would hold and cost; start nothing."""
    settings, workers = job.settings, job.workers
    place = World(size=workers)
    set_threads(settings.compute.threads, place)
    device = stage_device(settings.compute.device, place)
    train = job.loaders().train
    costs = costs_of(job, device, train)
    plan = new_plan(job, workers, device, train, costs=costs)
    if plan.is_pipeline and settings.plan.plan is None:
        settings = settings.changed(stages=workers)
    if as_json:
        fields = {
            "settings": dict(settings.items()),
            "plan": plan.as_json(),
            "stages": stage_costs(costs, plan),
            "layers_crossed": layers_crossed(job.chain, job.objective),
        }
        print(json.dumps(fields, default=str))
        return
    console = PlainConsole()
    console.print(write_toml(settings), soft_wrap=True, end="")
    crossed = layers_crossed(job.chain, job.objective)
    console.print(stage_table(costs, plan, train.largest_batch, crossed))


def stage_costs(costs: list[BlockCost], plan: Plan) -> list[dict[str, Any]]:
    """Each stage's blocks, workers, parameters, seconds a batch, and bytes that it sends on; of all its workers."""
    return [
        {
            "blocks": [cost.name for cost in mine],
            "workers": [str(share) for share in stage.shares],
            "by_batch": stage.by_batch,
            "parameters": sum(cost.parameters for cost in mine),
            "seconds": sum(cost.seconds for cost in mine),
            "bytes_sent": mine[-1].activation_bytes * plan.lanes if stage is not plan.stages[-1] else 0,
        }
        for stage, mine in zip(plan.stages, split_by_stage(costs, plan.blocks_per_stage), strict=True)
    ]


def stage_table(costs: list[BlockCost], plan: Plan, batch_size: int, crossed: Mapping[str, int]) -> Table:
    """crossed: layers that a gradient crosses, by block."""
    whole = not plan.is_pipeline
    rows = table(
        "stage",
        "blocks",
        *(["workers"] if whole else []),
        "parameters",
        "layers crossed",
        "ms a batch",
        "KiB sent a batch",
        title="Stages, measured here",
    )
    busy, longest = dict.fromkeys(range(plan.workers), 0.0), [0.0]
    for index, (stage, text) in enumerate(zip(plan.stages, stage_costs(costs, plan), strict=True)):
        for share in stage.shares:
            busy[share.worker] += text["seconds"] * len(share.lanes) / plan.lanes / stage.batch_stride
        if stage.by_batch:  # a block learns from one batch after the other
            longest.append(max(cost.seconds for cost in costs if cost.name in stage.blocks))
        workers = [stage.shared_out] if whole else []
        layers = " ".join(str(crossed.get(name, 1)) for name in text["blocks"])
        rows.add_row(
            str(index),
            " ".join(text["blocks"]),
            *workers,
            f"{text['parameters']:,}",
            layers,
            f"{text['seconds'] * 1e3:.2f}",
            f"{text['bytes_sent'] / 1024:,.0f}",
        )
    who = f"{plan.workers} workers" if whole else f"{len(plan.stages)} stages"
    rate = batch_size / max(*busy.values(), *longest)
    rows.caption = (
        f"by the slowest {'worker' if whole else 'stage'} {rate:,.0f} samples/s, if each of "
        f"{who} had a core or GPU of its own (cores here: {available_cores()}); reading the data, sending and "
        "validation are not in it; layers crossed: by a gradient, of each block and its head"
    )
    return rows
