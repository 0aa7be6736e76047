"""A run with --launcher ray, by its settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from ffdist.data.catalog import folder_of
from ffdist.errors import ConfigError, setting
from ffdist.events import Observer
from ffdist.known import TRANSPORTS_OF_RAY
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.start import SettingsJob
from ffdist.settings import Settings

ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""For a Ray of this host alone, read when it is imported: listen on the loopback only (on Linux, too), send no usage
statistics, and give the stages the priority of this process."""


GPUS = {"auto": None, "cpu": 0.0}
"""Reserved for a stage by --device, where --gpus-per-stage says nothing; else 1."""


def alone_unless_told(address: object) -> None:
    """Have Ray be one of this host alone, as `ALONE` has it, where neither an address nor the environment names a
    cluster. To be called before it is imported."""
    if not address and "RAY_ADDRESS" not in os.environ:
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)


def settings_on_ray(make: SettingsJob, out: Path, observer: Observer) -> Result:
    """The job that the settings describe, made anew in each actor, of data that its node can open."""
    settings = make.settings
    if folder := make.folder or folder_of(settings.dataset.data):
        settings = settings.changed(data=str(folder.absolute()), data_args=())
    made = replace(make, settings=settings, run=out.absolute())
    return launch_on_ray(made, settings, make.workers, out, observer, data=settings.dataset.data)


def launch_on_ray(
    make: Callable[[], Job], settings: Settings, stages: int, out: Path, observer: Observer, *, data: str = ""
) -> Result:
    """An actor a stage. Raises ConfigError where Ray is not installed, and as `run_ray` does.

    data: a prepared data set's folder, which the nodes are asked for; empty where the job itself brings the data.
    """
    s = settings
    alone_unless_told(s.ray.address)
    try:
        from ffdist.runtime.ray import RayOptions, run_ray
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "ray":
            raise
        raise ConfigError(
            "Ray is not installed",
            where=setting("plan.launcher", "ray"),
            expected="the package ray",
            remedy="pip install 'ffdist[ray]'",
        ) from error
    gpus = GPUS.get(s.compute.device, 1.0) if s.ray.gpus_per_stage is None else s.ray.gpus_per_stage
    options = RayOptions(
        s.ray.address,
        s.ray.placement,
        s.ray.cpus_per_stage,
        gpus,
        s.run.max_restarts,
        timedelta(seconds=s.ray.placement_timeout),
        s.run.timeout,
        direct=s.plan.transport not in TRANSPORTS_OF_RAY,
    )
    return run_ray(make, stages, observer, run=out.absolute(), data=data, options=options)
