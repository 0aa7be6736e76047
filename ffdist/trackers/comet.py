"""Comet; without an API key, or with COMET_START_ONLINE=0, offline: archives in RUN/comet, for `comet upload`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.trackers.base import Tracker, missing_package_error

FOLDER = "comet"


class Comet(Tracker):
    """Key, workspace and project come from Comet's own environment variables, COMET_API_KEY, COMET_WORKSPACE and
    COMET_PROJECT_NAME, or from its own file of settings."""

    name = "comet"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(run, settings)
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # else it wants to be imported before torch
        try:
            comet_ml = importlib.import_module("comet_ml")
        except ImportError as error:
            raise missing_package_error(self.name, "comet_ml", error) from error
        self.comet: Any = comet_ml
        self.experiment: Any = None

    def begin(self, step: int) -> None:
        self.close()
        known = self.recall()
        config = self.comet.ExperimentConfig(
            name=self.run.name,
            offline_directory=str(self.run / FOLDER),
            display_summary_level=0,
            log_code=False,
            log_graph=False,
            log_git_metadata=False,
            log_git_patch=False,
            log_env_details=False,
            parse_args=False,
            auto_output_logging="",
            auto_param_logging=False,
            auto_metric_logging=False,
        )
        self.experiment = self.comet.start(
            experiment_key=known,
            mode="get" if known else "create",
            online=self._is_online(),
            experiment_config=config,
        )
        self.remember(self.experiment.get_key())
        if not known:
            self.experiment.log_parameters(self.settings)

    def _is_online(self) -> bool:
        wished = os.environ.get("COMET_START_ONLINE", "1").lower() not in ("0", "false", "no")
        return wished and bool(self.comet.config.get_api_key(None, self.comet.get_config()))

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if self.experiment:
            self.experiment.log_metrics(dict(numbers), step=step)

    def end(self, reason: str) -> None:
        if self.experiment:
            self.experiment.log_other("reason", reason)

    def close(self) -> None:
        if self.experiment:
            self.experiment.end()
            self.experiment = None
