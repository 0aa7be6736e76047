"""Settings that are given and have no effect, because of what others say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ffdist.errors import ConfigError, setting
from ffdist.settings import GROUP_OF, Settings

OF_MUON = ("muon_rest", "muon_momentum", "unit_filters", "ns_steps")
OF_ADAM = ("betas", "eps")
RISING = ("one-cycle", "triangular")
ENDING = ("cosine", "linear", *RISING)
OF_LANES = ("exchange_dtype", "sync_norms")
OF_RAY = tuple(name for name, group in GROUP_OF.items() if group == "ray")
OF_RUNS = frozenset(n for n, group in GROUP_OF.items() if group in ("plan", "run", "ray")) - {"queue", "exchange"}
"""Settings of a run that a plan's price does not depend on, or that the plan replaces."""


def check_of_plans(names: Iterable[str], where: str) -> None:
    """Raises ConfigError for a setting of `OF_RUNS`. where: they are given."""
    for name in names:
        if name in OF_RUNS:
            raise ConfigError(
                f"{setting(f'{GROUP_OF[name]}.{name}')} is not a setting that a plan depends on",
                where=where,
                remedy="leave it out",
            )


def unused_settings(settings: Settings) -> Iterator[str]:
    """A line for each that is not at its default, and has no effect in such a run."""
    optimizer, schedule = settings.optim.optimizer, settings.scheduler.schedule
    rest = settings.optim.muon_rest if optimizer == "muon" else optimizer
    rises = bool(settings.scheduler.warmups) or schedule in RISING
    lanes = settings.training.lanes
    in_lanes = (lanes or 1) > 1 or (lanes is None and settings.plan.is_shared)
    # settings; whether something reads them; what would; the setting that decides it, and its value
    readers = (
        (("momentum",), rest == "sgd", "sgd", "optim.optimizer", optimizer),
        (("nesterov",), optimizer in ("sgd", "muon"), "sgd and muon", "optim.optimizer", optimizer),
        (OF_MUON, optimizer == "muon", "muon", "optim.optimizer", optimizer),
        (OF_ADAM, rest in ("adam", "adamw"), "adam and adamw", "optim.optimizer", optimizer),
        (("patience",), schedule == "plateau", "plateau", "scheduler.schedule", schedule),
        (("factor",), schedule in ("plateau", "milestones"), "plateau and milestones", "scheduler.schedule", schedule),
        (("milestones",), schedule == "milestones", "milestones", "scheduler.schedule", schedule),
        (("end",), schedule in ENDING, ", ".join(ENDING), "scheduler.schedule", schedule),
        (("start",), rises, "a warm-up", "scheduler.warmup", settings.scheduler.warmup),
        (OF_LANES, in_lanes, "several lanes", "training.lanes", lanes or 1),
        (("exchange",), settings.plan.is_shared, "stages that workers share", "plan.stages", settings.plan.stages),
        (("max_restarts",), settings.plan.launcher != "threads", "processes", "plan.launcher", "threads"),
        (OF_RAY, settings.plan.launcher == "ray", "ray", "plan.launcher", settings.plan.launcher),
    )
    for names, is_read, reader, why, value in readers:
        if not is_read and (spelled := changed(settings, *names)):
            yield f"nothing reads {spelled}, which is for {reader}: here it is {setting(why, value)}"
    late = [f"{step:g}" for step in settings.scheduler.milestones if step >= settings.training.epochs]
    if late and schedule == "milestones":
        yield (
            f"the rate does not fall at {setting('scheduler.milestones')} {' '.join(late)}, which lie after the "
            f"run's end: {setting('training.epochs', settings.training.epochs)}"
        )


def changed(settings: Settings, *names: str) -> str:
    """Those that are not at their defaults, spelled; empty without any."""
    found = [name for name in names if settings.value(name) != DEFAULTS.value(name)]
    return ", ".join(setting(f"{GROUP_OF[name]}.{name}") for name in found)


DEFAULTS = Settings()
