"""A job that was made in Python, sent whole to the processes of its stages."""

from __future__ import annotations

from dataclasses import dataclass

from ffdist.payload import pack
from ffdist.runtime.job import Job


def check_sendable(job: Job) -> None:
    """Raises ConfigError for a rule, a network or a metric that cannot be sent to another process."""
    for what, part in (("objective", job.objective), ("network", job.chain)):
        pack(part, what)
    for name, metric in job.metrics.items():
        pack(metric, f"metric {name}")


@dataclass(frozen=True)
class GivenJob:
    """Makes the job it holds; sent whole to a stage's process."""

    job: Job

    def __call__(self) -> Job:
        return self.job
