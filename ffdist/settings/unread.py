"""Settings that are told and that nothing reads, because of what others say."""

from __future__ import annotations

from collections.abc import Iterator

from ffdist.errors import setting
from ffdist.settings import GROUP_OF, Settings

OF_SGD = ("momentum", "nesterov")
OF_MUON = ("muon_momentum", "unit_filters", "ns_steps")
OF_PLATEAU = ("patience", "factor")
OF_RAY = tuple(name for name, group in GROUP_OF.items() if group == "ray")


def unread(settings: Settings) -> Iterator[str]:
    """A line for each that is not at its default, and has no effect in such a run."""
    optimizer, schedule = settings.optim.optimizer, settings.scheduler.schedule
    readers = (
        (OF_SGD, optimizer in ("sgd", "muon"), "sgd and muon", "optim.optimizer", optimizer),
        (OF_MUON, optimizer == "muon", "muon", "optim.optimizer", optimizer),
        (OF_PLATEAU, schedule == "plateau", "plateau", "scheduler.schedule", schedule),
        (("end",), schedule in ("cosine", "linear"), "cosine and linear", "scheduler.schedule", schedule),
        (("start",), settings.scheduler.warmup > 0, "a warm-up", "scheduler.warmup", settings.scheduler.warmup),
        (OF_RAY, settings.plan.launcher == "ray", "ray", "plan.launcher", settings.plan.launcher),
    )
    for names, is_read, reader, why, value in readers:
        told = [name for name in names if settings.value(name) != DEFAULTS.value(name)]
        if told and not is_read:
            spelled = ", ".join(setting(f"{GROUP_OF[name]}.{name}") for name in told)
            yield f"nothing reads {spelled}, which is for {reader}: here it is {setting(why, value)}"


DEFAULTS = Settings()
