"""MLflow; where MLFLOW_TRACKING_URI says, else in a file of RUN."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.errors import ConfigError, setting
from ffdist.trackers.base import Tracker, missing_package_error

STORE = "mlflow.db"


class MLflow(Tracker):
    """Server and experiment come from MLflow's own environment variables, MLFLOW_TRACKING_URI and
    MLFLOW_EXPERIMENT_NAME."""

    name = "mlflow"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(run, settings)
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise missing_package_error(self.name, "mlflow", error) from error
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place and importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny
            raise ConfigError(
                "MLflow cannot keep a file of its own",
                where=setting("watch.track", self.name),
                expected="sqlalchemy, which mlflow brings and mlflow-skinny does not, or a server",
                remedy="pip install mlflow, or set MLFLOW_TRACKING_URI",
            )
        self.client = MlflowClient(tracking_uri=place or f"sqlite:///{(run / STORE).absolute()}")
        self.id = None

    def begin(self, step: int) -> None:
        self.id = self.recall()
        if self.id:
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ffdist")
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        self.id = self.client.create_run(experiment, run_name=self.run.name).info.run_id
        self.remember(self.id)
        for key, value in self.settings.items():
            self.client.log_param(self.id, key, value)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if self.id is None:
            return
        for name, value in numbers.items():
            self.client.log_metric(self.id, name, value, step=step)

    def end(self, reason: str) -> None:
        if self.id:
            self.client.set_terminated(self.id, status="FINISHED" if reason == "finished" else "KILLED")
            self.id = None

    def close(self) -> None:
        if self.id:
            self.client.set_terminated(self.id, status="FAILED")
            self.id = None
