"""The making of a run's plan from its settings, which is made once and kept in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ffdist.cores import available_cores
from ffdist.data import Loader
from ffdist.device import parsed, seen
from ffdist.errors import ConfigError, setting
from ffdist.notes import listed, note
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.halving import halves_pay
from ffdist.pipeline.plan import BlockCost, measure_blocks, partition
from ffdist.plan import Plan, read_plan
from ffdist.plan.text import stages_of
from ffdist.planner.cached import profile_of
from ffdist.planner.forecast import Request, cluster_of, fastest
from ffdist.runtime.job import Job
from ffdist.runtime.run import PLAN, saved_plan, write_plan
from ffdist.settings import Settings
from ffdist.settings.unused import OF_LANES, changed

AUTO = "auto"


def count_workers(settings: Settings, names: Sequence[str], ranks: int | None) -> int:
    """The number of workers of a run; names: of its blocks; ranks: torchrun's world size, None without torchrun.

    Raises ConfigError for a plan that does not fit the blocks, the lanes or torchrun's ranks.
    """
    given = settings.plan
    if given.plan and given.plan != AUTO:
        plan = given_plan(given.plan, names, settings.training.lanes)
        if ranks is not None:
            plan.check_ranks(ranks, "torchrun")
        check_backprop(settings, len(plan.stages), setting("plan.plan"))
        return plan.workers
    if given.replicas:
        check_count(given.replicas, ranks, "plan.replicas")
        check_lanes(settings, given.replicas)
        return given.replicas
    if given.devices or given.plan == AUTO:
        if given.devices:
            check_count(given.devices, ranks, "plan.devices")
        return ranks or given.devices or local_devices(settings) or min(2, available_cores())
    return count_stages(settings, len(names), ranks)


def check_count(asked: int, ranks: int | None, name: str) -> None:
    """Raises ConfigError where the setting `name` asks for another number of workers than torchrun has started."""
    if ranks not in (None, asked):
        raise ConfigError(
            f"{setting(name)} and torchrun disagree",
            expected=f"{ranks}, one a rank",
            got=asked,
            remedy=f"{setting(name, ranks)}, or another --nproc-per-node",
        )


def check_lanes(settings: Settings, replicas: int) -> None:
    """Raises ConfigError for more replicas than lanes, or than samples in a batch: some would have nothing to do."""
    lanes = settings.training.lanes
    if lanes is not None and lanes < replicas:
        raise ConfigError(
            "there are more replicas than lanes of a batch",
            where=setting("plan.replicas", replicas),
            expected=f"at most {lanes}",
            got=replicas,
            remedy=f"{setting('training.lanes', replicas)} or more",
        )
    if replicas > settings.training.batch_size:
        raise ConfigError(
            "there are more replicas than samples in a batch",
            where=setting("plan.replicas"),
            expected=f"<= {settings.training.batch_size}",
            got=replicas,
        )


def local_devices(settings: Settings) -> int:
    """GPUs of this host that a run which begins here would use."""
    if settings.compute.device == "cpu" or settings.plan.launcher == "ray":
        return 0
    return seen().number if parsed(settings.compute.device)[1] is None else 1


def count_stages(settings: Settings, blocks: int, ranks: int | None) -> int:
    """The number of stages of a pure pipeline; `ranks` is torchrun's world size, None without torchrun.

    Raises ConfigError when --stages contradicts torchrun, or exceeds the number of blocks.
    """
    asked = settings.plan.stages or (len(settings.plan.cut) or None)
    if ranks is not None and asked not in (None, ranks):
        raise ConfigError(
            f"{setting('plan.stages')} and torchrun disagree",
            expected=f"{ranks} stages, one a rank",
            got=asked,
            remedy=f"{setting('plan.stages', ranks)}, or another --nproc-per-node",
        )
    count = ranks or asked or min(blocks, local_devices(settings) or min(2, available_cores()))
    where = "torchrun" if ranks else setting("plan.stages")
    check_backprop(settings, count, where)
    if count > blocks:
        raise ConfigError(
            "there are more stages than blocks",
            where=where,
            expected=f"1 to {blocks}, one block a stage at least",
            got=count,
            remedy="use fewer stages, or a model with more blocks; or share the blocks out: "
            f"{setting('plan.plan', AUTO)}",
        )
    return count


def check_backprop(settings: Settings, stages: int, where: str) -> None:
    """Raises ConfigError for several stages of the twin, whose one loss cannot be cut."""
    if stages > 1 and settings.rule.objective == "backprop":
        raise ConfigError(
            "backpropagation's twin is one block: its one loss is after the last layer",
            where=where,
            expected="1 stage",
            got=stages,
            remedy=f"{setting('plan.stages', '1')}, or {setting('plan.replicas')} for several devices",
        )


def given_plan(text: str, names: Sequence[str], lanes: int | None) -> Plan:
    """The plan of a text, or of a file. Raises ConfigError for what is none, or does not fit blocks and lanes."""
    if "@" not in text or os.path.isfile(text):  # Path.is_file raises for a plan longer than a file's name may be
        if not os.path.isfile(text):
            raise ConfigError(
                "there is no such plan",
                where=setting("plan.plan", repr(text)),
                expected="BLOCKS @ WORKERS | ..., a file, or auto",
                got="neither",
                remedy="`ffdist plan` prints plans of a network",
            )
        plan = plan_in(Path(text), lanes)
        plan.check(names)
        return plan
    return Plan.parse(text, names, lanes)


def lanes_before_plan(job: Job) -> int:
    """The lanes of a batch, as far as the settings tell them before the run's plan is made. Raises ConfigError for a
    plan that does not fit."""
    given, lanes = job.settings.plan, job.settings.training.lanes
    if given.plan and given.plan != AUTO:
        return given_plan(given.plan, job.names, lanes).lanes
    return lanes or given.replicas or 1


def plan_in(path: Path, lanes: int | None) -> Plan:
    """The plan of a file, still to be checked against a network. Raises ConfigError for what is none, and for one of
    another number of lanes than is set."""
    plan = read_plan(path)
    if lanes not in (None, plan.lanes):
        raise ConfigError(
            f"{setting('training.lanes')} and the plan disagree",
            where=path,
            expected=f"{plan.lanes} lanes",
            got=lanes,
            remedy="leave one of them out",
        )
    return plan


def settled_plan(settings: Settings) -> Settings:
    """The same, with the plan of a file as a text: the file may be another one, or gone, when the run goes on."""
    text = settings.plan.plan
    if not text or text == AUTO or not os.path.isfile(text):
        return settings
    plan = plan_in(Path(text), settings.training.lanes)
    return settings.changed(plan=str(plan), lanes=plan.lanes)


def is_searched(settings: Settings) -> bool:
    """True if the planner finds the plan."""
    return bool(settings.plan.devices) or settings.plan.plan == AUTO


def plan_of(job: Job, workers: int, device: torch.device, train: Loader, speeds: Sequence[float] = ()) -> Plan:
    """The run's own plan, where it still is what the settings ask for; else a new one, which is kept there. Only rank 0
    makes it.

    speeds: of the workers' devices against this one, where they are unlike.
    """
    saved = saved_plan(job.run)
    if saved is None and job.resume and is_searched(job.settings) and job.settings.training.lanes is None:
        raise ConfigError(
            "the plan of the run is gone, and nothing else says how many lanes its batches have",
            where=job.run and job.run / PLAN,
            remedy=f"restore it, or put a plan of as many lanes there: `ffdist plan ... --lanes N --json > {PLAN}`",
        )
    plan = saved if saved and is_as_asked(saved, job, workers) else new_plan(job, workers, device, train, speeds=speeds)
    plan.check(job.names)
    plan.check_ranks(workers, "processes of the run")
    if saved and saved.lanes != plan.lanes and job.resume:
        raise ConfigError(
            f"{setting('training.lanes')} cannot change when a run is resumed",
            where=job.run,
            expected=saved.lanes,
            got=plan.lanes,
            remedy="a plan of as many lanes, or a new run",
        )
    if saved and saved.blocks != plan.blocks:
        note(f"{job.run and job.run / PLAN} was a plan of other blocks ({listed(saved.blocks)}); it is written anew")
    for text in unused_by_plan(job.settings, plan):
        note(text)
    if job.run and plan != saved:
        write_plan(job.run, plan)
    return plan


def unused_by_plan(settings: Settings, plan: Plan) -> Iterator[str]:
    """A line for each setting that has no effect under the plan, where that tells it alone: of a file, or found."""
    if not settings.plan.is_shared:
        return
    in_lanes = any(len(stage.shares) > 1 and not stage.by_batch for stage in plan.stages)
    if not in_lanes and (spelled := changed(settings, "exchange")):
        yield f"nothing reads {spelled}, which is for lanes of several workers: the plan is {plan}"
    fitting = [stage for stage in plan.stages if halves_pay(len(stage.shares), plan.lanes, 0, "halves")]
    others = [str(stage) for stage in plan.stages if len(stage.shares) > 1 and stage not in fitting]
    if in_lanes and settings.plan.exchange == "halves" and others:
        yield (
            f"not by {setting('plan.exchange', 'halves')}, which is for 2, 4, 8, ... workers with a lane each, but by "
            f"slices: {' | '.join(others)}"
        )
    if plan.lanes == 1 and settings.training.lanes is None and (spelled := changed(settings, *OF_LANES)):
        yield f"nothing reads {spelled}, which is for several lanes: the plan has one"


def is_as_asked(plan: Plan, job: Job, workers: int) -> bool:
    """True if a plan of an earlier start is one of those that the settings ask for now."""
    given, lanes = job.settings.plan, job.settings.training.lanes
    if plan.workers != workers or plan.blocks != job.names or lanes not in (None, plan.lanes):
        return False
    if given.plan and given.plan != AUTO:
        return plan == given_plan(given.plan, job.names, lanes)
    if given.replicas:
        return plan == Plan.replicated(job.names, given.replicas, plan.lanes)
    if given.devices or given.plan == AUTO:
        return True
    return plan.is_pipeline and (not given.cut or plan.blocks_per_stage == list(given.cut))


def new_plan(
    job: Job,
    workers: int,
    device: torch.device,
    train: Loader,
    *,
    speeds: Sequence[float] = (),
    costs: Sequence[BlockCost] | None = None,
) -> Plan:
    """The plan that is given, or found. costs: of the blocks, where they are measured already."""
    given, lanes = job.settings.plan, job.settings.training.lanes
    if given.plan and given.plan != AUTO:
        return given_plan(given.plan, job.names, lanes)
    if given.replicas:
        return Plan.replicated(job.names, given.replicas, lanes or given.replicas)
    if is_searched(job.settings):
        return searched(job, workers, device, train, speeds)
    return Plan.pipeline(job.names, cut_of(job, workers, device, train, costs), lanes or 1)


def searched(job: Job, workers: int, device: torch.device, train: Loader, speeds: Sequence[float] = ()) -> Plan:
    """The fastest for so many workers on devices like this one, by measured blocks and links. What it is, and that a
    batch has so many lanes for its sake, is said."""
    settings = job.settings
    profile = profile_of(job.chain, job.objective, settings, train, device=device)
    cluster = cluster_of(Request(workers, speeds=tuple(speeds)), device, settings)
    lanes = 1 if settings.rule.objective == "backprop" and workers == 1 else settings.training.lanes
    plan = fastest(profile, cluster, lanes, exactly=True)[0].plan
    suffix = "" if plan.lanes == (settings.training.lanes or 1) else f", {plan.lanes} lanes a batch"
    unlike = f"; the devices' speeds, measured: {', '.join(f'{speed:.2g}' for speed in speeds)}" if speeds else ""
    note(f"the plan: {plan}{suffix}{unlike}")
    return plan


def cut_of(
    job: Job, stages: int, device: torch.device, train: Loader, costs: Sequence[BlockCost] | None = None
) -> list[int]:
    """Blocks in each stage of a pipeline: as set, or by measured time where there is a choice."""
    blocks_per_stage, blocks = list(job.settings.plan.cut), len(job.names)
    check_cut(job, stages)
    if blocks_per_stage or stages in (1, blocks):
        return blocks_per_stage or partition([1.0] * blocks, stages)
    return cut_by(costs if costs is not None else costs_of(job, device, train), stages)


def costs_of(job: Job, device: torch.device, train: Loader) -> list[BlockCost]:
    """Costs of the blocks with a batch as the run will have them."""
    config = job.block_config(device, max(1, len(train) * job.settings.training.epochs))
    parts = job.settings.training.microbatches * (job.settings.training.lanes or 1)
    return measure_blocks(job.chain, job.objective, config, max(parts, train.largest_batch), microbatches=parts)


def cut_by(costs: Sequence[BlockCost], stages: int) -> list[int]:
    """Blocks in each stage, so that the slowest is as fast as can be; a fusion head joins the last block, unless it is
    what the last of as many stages is for."""
    seconds = [cost.seconds for cost in costs]
    if costs[-1].name != FUSION or stages == len(costs):
        return partition(seconds, stages)
    *cut, last = partition([*seconds[:-2], sum(seconds[-2:])], stages)
    return [*cut, last + 1]


def check_cut(job: Job, stages: int) -> None:
    """Raises ConfigError for a cut that has not as many stages, or does not cover the blocks."""
    cut, blocks = list(job.settings.plan.cut), len(job.names)
    if cut and (len(cut) != stages or sum(cut) != blocks or min(cut) < 1):
        raise ConfigError(
            f"{setting('plan.cut')} does not fit",
            where=f"{stages} stages of {', '.join(job.names)}",
            expected=f"{stages} positive counts that sum to {blocks}",
            got=cut,
        )


def max_stages(settings: Settings, workers: int) -> int:
    """The most stages of any plan that is given."""
    given = settings.plan
    if given.replicas:
        return 1
    return len(stages_of(given.plan)) if given.plan and given.plan != AUTO else workers
