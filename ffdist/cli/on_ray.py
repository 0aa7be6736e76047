"""`ffdist train --launcher ray`."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from ffdist.data.catalog import folder_of
from ffdist.errors import ConfigError
from ffdist.pipeline.sink import Reporter
from ffdist.runtime.outcome import Result
from ffdist.runtime.start import SettingsJob

ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""For a Ray of this host alone, read when it is imported: listen on the loopback only (on Linux, too), send no usage
statistics, and give the stages the priority of this process."""


GPUS = {"auto": None, "cpu": 0.0}
"""Reserved for a stage by --device, where --gpus-per-stage says nothing; else 1."""


def launch_on_ray(make: SettingsJob, out: Path, report: Reporter) -> Result:
    """An actor a stage. Raises ConfigError where Ray is not installed, and as `run_ray` does."""
    s = make.settings
    if s.address is None and "RAY_ADDRESS" not in os.environ:
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
    try:
        from ffdist.runtime.ray import RayOptions, run_ray
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "ray":
            raise
        raise ConfigError("Ray is not installed", where="--launcher ray", expected="the package ray",
                          remedy="pip install 'ffdist[ray]'") from error  # fmt: skip
    if folder := folder_of(s.data):
        s = replace(s, data=str(folder.absolute()))
    gpus = GPUS.get(s.device, 1.0) if s.gpus_per_stage is None else s.gpus_per_stage
    options = RayOptions(s.address, s.placement, s.cpus_per_stage, gpus, s.max_restarts,
                         timedelta(seconds=s.placement_timeout), direct=s.transport != "object-store")  # fmt: skip
    out = out.absolute()
    return run_ray(replace(make, settings=s, run=out), make.stages, report, run=out, data=s.data, options=options)
