"""Pipeline-parallel distributed training of Forward-Forward and other locally learning networks.

    from ffdist import SFF, Pipeline, models, open_data

    images = open_data("digits")
    pipeline = Pipeline(models.cnnb(images.shape, images.num_classes), SFF(kernel=3), stages=2)
    result = pipeline.fit(images, epochs=30, batch_size=32, augment=["crop"])
    print(result.test["accuracy"])

`Pipeline` takes all settings of a run, by their names in `ffdist.settings`. `load("RUN")` is the trained network of any
run, `Pipeline.resume("RUN")` goes on with one, `write_report("RUN")` tells what it did. `ffdist.api.Pipeline` says
more; `ffdist --help` is the command line.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffdist import models, objectives, presets, settings
    from ffdist.api import Pipeline
    from ffdist.data import Images, from_arrow, from_dataset, from_ray, from_tensors, open_data
    from ffdist.errors import FfdistError
    from ffdist.events import Observer, RunEvent, StopRun
    from ffdist.models import Chain
    from ffdist.objectives import SFF, BlockSpec, Local, Objective
    from ffdist.page.server import PageServer
    from ffdist.page.write import write_report
    from ffdist.pipeline.classifier import Classifier
    from ffdist.runtime.export import export
    from ffdist.runtime.exported import load
    from ffdist.runtime.outcome import Result
    from ffdist.runtime.prediction import read_pictures
    from ffdist.runtime.replay import replay
    from ffdist.settings import (
        ComputeSettings,
        DatasetSettings,
        NetworkSettings,
        OptimSettings,
        PlanSettings,
        RaySettings,
        RuleSettings,
        RunSettings,
        SchedulerSettings,
        Settings,
        TrainingSettings,
        WatchSettings,
    )

_PLACES = {
    "Pipeline": "ffdist.api",
    **dict.fromkeys(("Images", "from_arrow", "from_dataset", "from_ray", "from_tensors", "open_data"), "ffdist.data"),
    "FfdistError": "ffdist.errors",
    **dict.fromkeys(("Observer", "RunEvent", "StopRun"), "ffdist.events"),
    "Chain": "ffdist.models",
    **dict.fromkeys(("SFF", "Local", "Objective", "BlockSpec"), "ffdist.objectives"),
    "PageServer": "ffdist.page.server",
    "write_report": "ffdist.page.write",
    "Classifier": "ffdist.pipeline.classifier",
    "Result": "ffdist.runtime.outcome",
    "export": "ffdist.runtime.export",
    "load": "ffdist.runtime.exported",
    "read_pictures": "ffdist.runtime.prediction",
    "replay": "ffdist.runtime.replay",
    **dict.fromkeys(
        (
            "ComputeSettings",
            "DatasetSettings",
            "NetworkSettings",
            "OptimSettings",
            "PlanSettings",
            "RaySettings",
            "RuleSettings",
            "RunSettings",
            "SchedulerSettings",
            "Settings",
            "TrainingSettings",
            "WatchSettings",
        ),
        "ffdist.settings",
    ),
}
"""Looked up on first use, so that a part of ffdist needs only what that part imports."""
_RENAMED = {"Site": "BlockSpec", "Watch": "PageServer"}
"""Names of an earlier version."""

__all__ = [
    "SFF",
    "BlockSpec",
    "Chain",
    "Classifier",
    "ComputeSettings",
    "DatasetSettings",
    "FfdistError",
    "Images",
    "Local",
    "NetworkSettings",
    "Objective",
    "Observer",
    "OptimSettings",
    "PageServer",
    "Pipeline",
    "PlanSettings",
    "RaySettings",
    "Result",
    "RuleSettings",
    "RunEvent",
    "RunSettings",
    "SchedulerSettings",
    "Settings",
    "StopRun",
    "TrainingSettings",
    "WatchSettings",
    "export",
    "from_arrow",
    "from_dataset",
    "from_ray",
    "from_tensors",
    "load",
    "models",
    "objectives",
    "open_data",
    "presets",
    "read_pictures",
    "replay",
    "settings",
    "write_report",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("ffdist")
    if name in ("models", "objectives", "presets", "settings"):
        return _imported(f"ffdist.{name}")
    if name in _RENAMED:
        from ffdist.renamed import warn_renamed

        warn_renamed(f"ffdist.{name}", f"ffdist.{_RENAMED[name]}")
        name = _RENAMED[name]
    if name not in _PLACES:
        raise AttributeError(f"module 'ffdist' has no attribute '{name}'")
    return getattr(_imported(_PLACES[name]), name)


def _imported(place: str) -> ModuleType:
    if place in sys.modules:
        return importlib.import_module(place)  # waits for another thread's import
    from ffdist.loading import loading

    with loading():
        return importlib.import_module(place)
