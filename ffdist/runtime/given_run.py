"""Runs that are begun in Python, kept in folders that the commands take as their own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ffdist.config import TrainSettings
from ffdist.data.images import Images
from ffdist.errors import ConfigError
from ffdist.models import Chain
from ffdist.notes import note
from ffdist.objectives import OBJECTIVES, Objective, load_objective
from ffdist.options import text_of
from ffdist.pipeline.optim import OptimConfig
from ffdist.runtime.folder import beginning, check_resumable, going_on, nothing_left, read_recorded
from ffdist.runtime.job import Job, JobConfig
from ffdist.runtime.own_code import GIVEN, settled
from ffdist.runtime.run import SETTINGS, write_settings
from ffdist.snapshot import committed


@contextmanager
def kept(job: Job, settings: TrainSettings) -> Iterator[Job]:
    """The job as it is to run in the folder `settings.out`, which is begun, or gone on with, and held meanwhile.

    Raises ConfigError for a folder that holds a run where none is to go on, and for settings that may not change;
    DataError for other data.
    """
    out = settings.out
    assert out
    if not settings.resume:
        if (out / "snapshots").exists() and not (out / SETTINGS).exists():
            raise ConfigError("the folder already holds a run", where=out, remedy="choose another `out`")
        with beginning(settings, job.images):
            yield job
        return
    check_resumable(read_recorded(out), settings)
    if told := nothing_left(settings):
        note(f"{told} ({out})")
    with going_on(settings, job.images):
        config = replace(job.config, resume=bool(committed(out)))
        yield replace(job, config=config, ready=partial(write_settings, out, settled(settings)))


def settings_of(
    config: JobConfig, *, data: str | None, network: Any, objective: Objective | str, blocks: Any, launcher: Any
) -> TrainSettings:
    """What a run's folder says of one that was begun in Python; what has no name in it is said to be given.

    data: by what `open_data` opens them again; None: they were given. blocks: how the network's were joined.
    """
    chain, rule = spelled_network(network), spelled_rule(objective)
    optim = {f.name: getattr(config.optim, f.name) for f in fields(OptimConfig) if f.name != "windows"}
    return TrainSettings(
        data=data or GIVEN,
        model=chain[0],
        model_args=chain[1],
        blocks=tuple(blocks or ()),
        objective=rule[0],
        objective_args=rule[1],
        fusion=config.fusion,
        stages=config.stages,
        cut=tuple(config.cut),
        queue=config.queue,
        launcher=launcher,
        out=config.run,
        resume=config.resume,
        epochs=config.schedule.epochs,
        early_stop=config.schedule.early_stop,
        batch_size=config.batch_size,
        validation=config.validation,
        augment=tuple(config.augment),  # pyright: ignore[reportArgumentType]
        windows=tuple(f"{start}:{end}" for start, end in config.optim.windows),
        seed=config.seed,
        precision=config.precision,
        device=config.device,
        threads=config.threads,
        timeout=config.timeout.total_seconds(),
        **optim,
    )


def spelled_network(network: Any) -> tuple[str, tuple[str, ...]]:
    """Its name and options."""
    if not isinstance(network, Chain) or network.spelling is None:
        return GIVEN, ()
    return network.spelling.name, tuple(f"{name}={value}" for name, value in network.spelling.options)


def spelled_rule(rule: Objective | str) -> tuple[str, tuple[str, ...]]:
    """Its name and options; given, where no command could make it again from those."""
    if isinstance(rule, str):
        return rule, ()
    place = f"{type(rule).__module__}:{type(rule).__qualname__}"
    name = next((name for name in OBJECTIVES if OBJECTIVES[name] is type(rule)), place)
    if name == place and not importable(type(rule)):
        return GIVEN, ()
    options = {f.name: text_of(getattr(rule, f.name)) for f in fields(rule) if f.init} if is_dataclass(rule) else {}
    try:
        same = load_objective(name, options) == rule
        bare = load_objective(name)
    except Exception:  # of a rule with fields that have no text, or no defaults
        return GIVEN, ()
    if not same:
        return GIVEN, ()
    told = {option: text for option, text in options.items() if text_of(getattr(bare, option)) != text}
    return name, tuple(f"{option}={text}" for option, text in told.items())


def importable(kind: type) -> bool:
    """Whether another process finds a class by its module."""
    module = kind.__module__
    return module != "__main__" and getattr(importlib.import_module(module), kind.__qualname__, None) is kind


def named_folder(data: Any) -> str | None:
    """By what `open_data` opens it again."""
    if isinstance(data, Images):
        return data.source
    return str(data) if isinstance(data, (str, Path)) else None
